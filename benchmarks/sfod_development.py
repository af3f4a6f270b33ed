"""The blood-cell experiment on a target that may be looked at: bccd itself under another stain, gamma and blur.

    python benchmarks/sfod_development.py BLOOD_CELLS --out WORK [--seeds 1] [--source 400] [--adapt 200] [--arms A B]

Settings are tried here, so that raabin's labels choose none. Needs the weights that `medkd reproduce sfod-blood-cells`
asks for, in WORK/sfod_bccd_shifted/work/data; it says how to make them. Its numbers are no result: the target is made.
"""

from __future__ import annotations

import argparse
import dataclasses
from pathlib import Path

from rich.console import Console

from medkd.claims.blood_cell_data import SHIFTED
from medkd.claims.blood_cells import ARMS, Settings, blood_cells
from medkd.claims.reproduce import reproduce


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--source", type=int, default=Settings.source)
    parser.add_argument("--adapt", type=int, default=Settings.adapt)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    given = parser.parse_args()
    experiment = blood_cells(given.data, given.seeds, SHIFTED, Settings(source=given.source, adapt=given.adapt))
    chosen = tuple(run for run in experiment.plan if run.arm in given.arms)
    experiment = dataclasses.replace(experiment, plan=chosen)
    console = Console(stderr=True)
    lines = reproduce(experiment, given.out, console=console)
    print(experiment.summary(lines)[1])


if __name__ == "__main__":
    main()
