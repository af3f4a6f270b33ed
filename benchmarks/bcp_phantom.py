"""The phantom experiment at five seeds: its table, its figure, and the margin that the quickstart is held to.

    python benchmarks/bcp_phantom.py [--seeds 5]

Runs `medkd reproduce bcp` into docs/results/bcp_phantom/ (a line a finished run; a re-run skips those), then writes
docs/results/bcp_phantom.md and docs/results/quickstart_margin.json. The margin is half the smallest gain of BCP over
labelled-only among the seeds: what a working quickstart exceeds on any machine.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from medkd.claims.bcp import reproduce, table
from medkd.report.curves import arms_figure
from medkd.runs.phantom import ARMS

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    seeds = parser.parse_args().seeds
    folder = RESULTS / "bcp_phantom"
    for arms in (("labelled_only", "self_training", "bcp"), tuple(ARMS)):  # what the claim is about first
        write(reproduce(folder, seeds, arms=arms, console=Console(stderr=True)), folder, seeds)


def write(result: dict[str, Any], folder: Path, seeds: int) -> None:
    """The page, the figure and the margin, from the runs that are finished."""
    (folder / "result.json").write_text(json.dumps(result, indent=1) + "\n")
    arms = {name: arm["dice"] for name, arm in result["arms"].items()}
    (folder / "arms.png").write_bytes(arms_figure(arms))

    gains = [b - a for a, b in zip(arms["labelled_only"], arms["bcp"])]
    margin = {"gains": [round(g, 4) for g in gains], "seeds": seeds, "margin": round(max(0.0, min(gains) / 2), 4)}
    (RESULTS / "quickstart_margin.json").write_text(json.dumps(margin, indent=1) + "\n")
    hardware = ", ".join(f"{k} {v}" for k, v in result["hardware"].items())
    (RESULTS / "bcp_phantom.md").write_text(
        f"# BCP on generated patients\n\n`python benchmarks/bcp_phantom.py --seeds {seeds}` wrote this page.\n\n"
        f"{result['labelled_patients']} labelled patients, {seeds} seeds (cohort, start weights and samples), "
        f"{result['budget']} updates, 64 x 64 pixels. Every arm starts from the same weights and makes the same number "
        f"of updates; the checkpoint is the best on 4 validation patients, with the last beside it; Dice on 12 test "
        f"patients, mean over classes. Hardware: {hardware}.\n\n{table(result)}\n\n"
        f"**Verdict.** {result['verdict']}.\n\n![Test Dice of every arm and seed](bcp_phantom/arms.png)\n\n"
        f"Gain of BCP over labelled-only by seed: {', '.join(f'{g:+.3f}' for g in gains)}. The quickstart must exceed "
        f"half the smallest, {margin['margin']:.3f} ([quickstart_margin.json](quickstart_margin.json)).\n"
    )


if __name__ == "__main__":
    main()
