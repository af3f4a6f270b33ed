"""What the finished lines of the blood-cell experiment say, held against the aims that were set before any was made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

import numpy as np

from medkd.claims.blood_cells import START
from medkd.claims.runner import Line
from medkd.claims.verdict import judge

if TYPE_CHECKING:
    from medkd.claims.blood_cells import BloodCells

COLLAPSED = 0.05
"""So far below its source in AP50 of RBC or WBC, at the last checkpoint of any seed, a run counts as collapsed."""
COMPARISONS = (
    ("gt_expert", START), ("gt_expert", "mean_teacher"), ("gt_expert", "gt_no_expert"), ("gt_no_expert", START),
    ("gt_no_expert", "mean_teacher"), ("mean_teacher", START), ("static_labels", START), ("adabn", START),
    ("gt_expert", "gt_no_rcm"), ("gt_expert", "gt_no_sal"), ("gt_expert", "gt_no_mixing"), (START, "source_only"),
    ("oracle", START),
)  # fmt: skip

Seeds = Mapping[int, Line]


@dataclass(frozen=True)
class Aim:
    """words: as it was set. found(arms): whether it is reached and the numbers in words, or None without the runs."""

    words: str
    found: Callable[[Mapping[str, Seeds], str], tuple[bool, str] | None]


def rare(line: Line, target: str) -> float:
    """AP50 of white cells on the target's held-out images."""
    return float(line["scores"][target]["classes"]["WBC"]["ap50"])


def mean(line: Line, target: str) -> float:
    """AP50, mean over red and white cells."""
    return float(line["scores"][target]["map50"])


def _gain(better: str, worse: str, least: float, value: Callable[[Line, str], float]) -> Any:
    def found(arms: Mapping[str, Seeds], target: str) -> tuple[bool, str] | None:
        gains = paired(arms, better, worse, target, value)
        return (fmean(gains) >= least, f"{fmean(gains):+.3f} ({by_seed(gains)})") if gains else None

    return found


def _gap(arms: Mapping[str, Seeds], target: str) -> tuple[bool, str] | None:
    seeds = sorted(_seeds(arms, "gt_expert") & _seeds(arms, START) & _seeds(arms, "oracle"))
    if not seeds:
        return None
    adapted, source, oracle = (
        fmean(mean(arms[arm][s], target) for s in seeds) for arm in ("gt_expert", START, "oracle")
    )
    if oracle <= source:
        return False, f"there is no gap: oracle {oracle:.3f}, source {source:.3f}"
    share = (adapted - source) / (oracle - source)
    return (
        share >= 0.5,
        f"{100 * share:.0f} % of the gap ({source:.3f}, {adapted:.3f}, {oracle:.3f}; {len(seeds)} seeds)",
    )


def _alive(arms: Mapping[str, Seeds], target: str) -> tuple[bool, str] | None:
    falls = [
        (source["scores"][target]["classes"][name]["ap50"] - line["scores"][target]["classes"][name]["ap50"], name, s)
        for s, line in arms.get("gt_expert", {}).items()
        if (source := arms.get(START, {}).get(s))
        for name in ("RBC", "WBC")
    ]
    if not falls:
        return None
    worst, name, seed = max(falls)
    words = "none is below its source" if worst <= 0 else f"worst: {name}, {worst:.3f} below its source, seed {seed}"
    return worst <= COLLAPSED, words


AIMS = (
    Aim("GT with the expert at least 0.10 of WBC AP50 above source-only (with colours)",
        _gain("gt_expert", START, 0.10, rare)),
    Aim("GT with the expert at least 0.10 of WBC AP50 above the mean teacher",
        _gain("gt_expert", "mean_teacher", 0.10, rare)),
    Aim("GT with the expert closes at least half of the gap to the oracle, AP50 over RBC and WBC", _gap),
    Aim(f"GT with the expert does not collapse: no class of any seed more than {COLLAPSED} of AP50 below its source",
        _alive),
    Aim("GT without the expert not below source-only (with colours), AP50 over RBC and WBC",
        _gain("gt_no_expert", START, 0.0, mean)),
)  # fmt: skip


def summarise(experiment: BloodCells, lines: Sequence[Line]) -> dict[str, Any]:
    """Mean and sd of every arm, the aims, the paired differences and the runs still missing."""
    arms, target = by_arm(experiment, lines), experiment.target
    differences = []
    for better, worse in COMPARISONS:
        both = {what: paired(arms, better, worse, target, value) for what, value in (("WBC", rare), ("mean", mean))}
        if both["mean"]:
            words = {what: judge(np.array(v)) for what, v in both.items()}
            differences.append({"better": better, "worse": worse, "by_seed": both, "words": words})
    aims = [{"aim": aim.words, **_said(aim.found(arms, target))} for aim in AIMS]
    return {
        "claim": "sfod-blood-cells",
        "experiment": experiment.name,
        "command": experiment.command,
        "budget": experiment.budget,
        "arms": {
            arm: {
                "seeds": sorted(seeds),
                "wbc_ap50": _spread(seeds, target, rare),
                "map50": _spread(seeds, target, mean),
            }
            for arm, seeds in arms.items()
            if seeds
        },
        "aims": aims,
        "differences": differences,
        "missing": [str(run) for run in experiment.plan if run.seed not in arms[run.arm]],
        "verdict": verdict(aims, experiment.caveat),
    }


def verdict(aims: Sequence[Mapping[str, Any]], caveat: str) -> str:
    """In one sentence; a refusal where an aim is missed."""
    judged = [aim for aim in aims if aim["reached"] is not None]
    missed = [aim["aim"] for aim in judged if not aim["reached"]]
    if not judged:
        return f"nothing to judge yet; {caveat}"
    text = f"{len(judged) - len(missed)} of {len(judged)} aims that can be judged are reached"
    return "; ".join([text, *([f"refused: {'; '.join(missed)}"] if missed else []), caveat])


def words(result: Mapping[str, Any]) -> str:
    """For a console."""
    rows = [
        f"{arm}: WBC AP50 {a['wbc_ap50'][0]:.3f}, mean of RBC and WBC {a['map50'][0]:.3f} ({len(a['seeds'])} seeds)"
        for arm, a in result["arms"].items()
    ]
    missing = [f"still missing: {', '.join(result['missing'])}"] if result["missing"] else []
    return "\n".join([*rows, *missing, f"verdict: {result['verdict']}"])


def by_arm(experiment: BloodCells, lines: Sequence[Line]) -> dict[str, dict[int, Line]]:
    return {arm: {line["seed"]: line for line in lines if line["arm"] == arm} for arm in experiment.arms}


def paired(
    arms: Mapping[str, Seeds], better: str, worse: str, target: str, value: Callable[[Line, str], float]
) -> list[float]:
    """Better minus worse, of the seeds that both have finished."""
    seeds = sorted(_seeds(arms, better) & _seeds(arms, worse))
    return [round(value(arms[better][s], target) - value(arms[worse][s], target), 4) for s in seeds]


def by_seed(values: Sequence[float]) -> str:
    return ", ".join(f"{v:+.3f}" for v in values)


def _seeds(arms: Mapping[str, Seeds], arm: str) -> set[int]:
    return set(arms.get(arm, {}))


def _spread(seeds: Seeds, target: str, value: Callable[[Line, str], float]) -> tuple[float, float | None]:
    found = [value(line, target) for line in seeds.values()]
    return round(fmean(found), 4), round(stdev(found), 4) if len(found) > 1 else None


def _said(found: tuple[bool, str] | None) -> dict[str, Any]:
    return (
        {"reached": None, "numbers": "not measured yet"}
        if found is None
        else {"reached": found[0], "numbers": found[1]}
    )
