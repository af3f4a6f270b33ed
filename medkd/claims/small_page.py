"""OUT/claims.md and the figures beside it, written from the lines of the finished seeds alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from medkd.claims.page import markdown
from medkd.claims.reproduce import CLAIMS
from medkd.claims.small import Line, SmallClaim, finished, lines_file, summarise, values
from medkd.data.dataset import write_whole
from medkd.report.arms import arms_panels

HEAD = """# Claims at the size of minutes

Written by `medkd reproduce NAME --out docs/results` from the lines in [claims/](claims). Each claim is tested by the
honest experiment of its method card, at a size that one core does in seconds or minutes: the baseline stands beside
it, and what was shrunk is said.

**The rule**, fixed before any number was looked at: "A over B" is judged by the difference of each seed, positive where
A is better. If the 95 % t-interval of its mean lies above the margin (0 unless said) *the direction holds*, if it lies
below *does not hold here*, else *within noise*. A claim's verdict is the weakest among the statements its authors make;
statements marked "reported" do not count. Intervals are not corrected for their number.
"""


def write_pages(out: Path) -> None:
    """Write OUT/claims.md and every figure again, for all claims that have lines."""
    parts, rows = [], []
    for name, entry in CLAIMS.items():
        if entry.small is None or not lines_file(name, out).exists():
            continue
        claim = entry.small()
        lines = finished(name, claim, out)
        if not lines:
            continue
        figure = lines_file(name, out).with_suffix(".png")
        figure.write_bytes(draw(claim, lines))
        result = summarise(name, entry.words, claim, lines)
        rows.append(
            [
                f"[{name}](#{name})",
                f"**{result['verdict']}**",
                f"{len(lines)} of {claim.seeds}",
                _cost(result),
                f"`{result['command']}`",
            ]
        )
        parts.append(section(result, claim))
    if rows:
        table = markdown(["claim", "verdict", "seeds", "CPU s, all seeds", "command"], rows)
        write_whole(out / "claims.md", "\n".join([HEAD, table, "", *parts]))


def draw(claim: SmallClaim, lines: Sequence[Line]) -> bytes:
    """A panel a metric, a row an arm, a dot a seed."""
    return arms_panels(
        {
            words: {arm: found for arm in claim.arms if (found := values(lines, arm, metric))}
            for metric, words in claim.metrics.items()
        }
    )


def section(result: dict[str, Any], claim: SmallClaim) -> str:
    """The part of one claim."""
    name, hardware = result["claim"], result["hardware"]
    machine = (
        f"{', '.join(hardware['processor'])}, {'/'.join(hardware['threads'])} of {'/'.join(hardware['cores'])} cores, "
        f"torch {', '.join(hardware['torch'])}"
    )
    return "\n\n".join(
        [
            f"## {name}",
            f"*Claim:* {result['words']}.",
            claim.setting,
            table(result, claim),
            statements(result),
            f"**Verdict: {result['verdict']}.** `{result['command']}`: {_cost(result)} CPU s for "
            f"{len(result['seeds'])} seeds on {machine}.",
            f"![{name}: every arm and seed](claims/{name}.png)\n",
        ]
    )


def table(result: dict[str, Any], claim: SmallClaim) -> str:
    """Arms by metrics, mean and sd over seeds."""
    rows = []
    for arm, words in claim.arms.items():
        cells = [_cell(result["arms"][arm].get(metric)) for metric in claim.metrics]
        rows.append([f"`{arm}`: {words}" if words else f"`{arm}`", *cells])
    heads = [f"{words} (lower is better)" if m in claim.lower else words for m, words in claim.metrics.items()]
    return markdown(["arm (mean ± sd over seeds)", *heads], rows)


def statements(result: dict[str, Any]) -> str:
    """Every statement with its paired difference."""
    rows = []
    for s in result["statements"]:
        ends = f"{s['interval'][0]:+.3f} to {s['interval'][1]:+.3f}" if s["interval"] else "–"
        mean = f"{s['mean']:+.3f}" if s["mean"] is not None else "–"
        who = "claimed" if s["claimed"] else "reported"
        rows.append([s["text"], who, mean, ends, s["judgement"]])
    return markdown(["statement", "by", "difference", "95 %", "judged"], rows)


def _cell(found: dict[str, Any] | None) -> str:
    if found is None:
        return "–"
    return f"{found['mean']:.3f}" + ("" if found["sd"] is None else f" ± {found['sd']:.3f}")


def _cost(result: dict[str, Any]) -> str:
    return f"{result['cpu_seconds']:.0f}" if result["cpu_seconds"] >= 10 else f"{result['cpu_seconds']:.1f}"
