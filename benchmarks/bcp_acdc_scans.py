"""On which hearts the arms of `medkd reproduce bcp` lose: turned ones against the rest, end-systole against diastole.

python benchmarks/bcp_acdc_scans.py DATASET > docs/results/bcp_acdc/scans.txt      DATASET: ACDC with 3 labelled

Reads docs/results/bcp_acdc/by_scan.csv. How a heart lies: the direction in the plane of the slices from the centre of
its left to that of its right ventricle, by its label. How far it is turned: the angle to the nearest of the labelled
training scans; light augmentation reaches 20 degrees.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from statistics import fmean

import numpy as np

from medkd.data.dataset import Case, read_dataset
from medkd.imaging.nifti import read_nifti

REACH = 20
TABLE = Path(__file__).parents[1] / "docs" / "results" / "bcp_acdc" / "by_scan.csv"


def direction(case: Case, right: int = 1, left: int = 3) -> float:
    """Degrees."""
    assert case.label is not None
    label = np.asarray(read_nifti(case.label).array)
    x, y = (np.argwhere(label == right).mean(0) - np.argwhere(label == left).mean(0))[:2]
    return float(np.degrees(np.arctan2(y, x)))


def main(folder: Path) -> None:
    dataset = read_dataset(folder)
    known = [direction(case) for case in dataset.select("train", labelled=True)]
    turned = {c.id: min(abs((direction(c) - k + 180) % 360 - 180) for k in known) for c in dataset.select("test")}
    with TABLE.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    groups = {
        f"turned by {REACH} or less": [r for r in rows if turned[r["scan"]] <= REACH],
        f"turned by more than {REACH}": [r for r in rows if turned[r["scan"]] > REACH],
        "end-diastole": [r for r in rows if r["scan"].endswith("frame01")],
        "end-systole": [r for r in rows if not r["scan"].endswith("frame01")],
    }
    print(f"{'test Dice, mean over scans':26}" + "".join(f"{name:>24}" for name in groups))
    print(f"{'scans':26}" + "".join(f"{len(found):24}" for found in groups.values()))
    for arm in list(rows[0])[2:]:
        print(f"{arm:26}" + "".join(f"{fmean(float(r[arm]) for r in found):24.3f}" for found in groups.values()))
    beyond = {scan: round(angle) for scan, angle in sorted(turned.items()) if angle > REACH}
    print(f"\nturned by more than {REACH} degrees:", ", ".join(f"{scan} {angle}" for scan, angle in beyond.items()))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
