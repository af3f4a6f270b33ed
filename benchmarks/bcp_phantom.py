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

from rich.console import Console

from medkd.claims.bcp_phantom import phantom
from medkd.claims.reproduce import reproduce
from medkd.claims.runner import Line, finished

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5)
    experiment = phantom(parser.parse_args().seeds)
    reproduce(experiment, RESULTS, console=Console(stderr=True))
    more = margin(list(finished(experiment, RESULTS / experiment.name).values()))
    reproduce(experiment, RESULTS, page_only=True, more=more)


def margin(lines: list[Line]) -> str:
    """Writes the margin; what the page says of it."""
    dice = {(line["arm"], line["seed"]): line["dice_best"] for line in lines}
    seeds = sorted(seed for arm, seed in dice if arm == "bcp" and ("labelled_only", seed) in dice)
    gains = [round(dice["bcp", seed] - dice["labelled_only", seed], 4) for seed in seeds]
    half = round(max(0.0, min(gains) / 2), 4)
    content = {"gains": gains, "seeds": len(seeds), "margin": half}
    (RESULTS / "quickstart_margin.json").write_text(json.dumps(content, indent=1) + "\n")
    return (
        f"\nGain of BCP over labelled-only by seed: {', '.join(f'{g:+.3f}' for g in gains)}. The quickstart must "
        f"exceed half the smallest, {half:.3f} ([quickstart_margin.json](quickstart_margin.json)).\n"
    )


if __name__ == "__main__":
    main()
