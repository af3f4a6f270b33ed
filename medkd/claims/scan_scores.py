"""Which test scans an arm gets right: the evaluations of the finished runs as one table beside the page, drawn."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path
from statistics import fmean

from medkd.claims.experiment import Experiment
from medkd.claims.runner import Run, finished, run_folder
from medkd.data.dataset import write_whole
from medkd.report.score_grid import score_grid


def write_scan_scores(experiment: Experiment, folder: Path) -> None:
    """Write FOLDER/by_scan.csv and by_scan.png: Dice of the best weights, mean over the classes and the finished seeds.

    Nothing is written unless the evaluation of every finished run is there: a page can be made from its lines alone.
    """
    found: dict[str, dict[str, list[float]]] = {}
    runs = finished(experiment, folder)
    for run in runs:
        evaluation = evaluated(experiment, run, folder)
        if not evaluation.exists():
            return
        for scan, dice in scan_dice(evaluation).items():
            found.setdefault(run.arm, {}).setdefault(scan, []).append(dice)
    if not runs:
        return
    means = {arm: {scan: fmean(dice) for scan, dice in found[arm].items()} for arm in experiment.arms if arm in found}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["scan", *means])
    for scan in dict.fromkeys(scan for arm in means.values() for scan in arm):
        writer.writerow([scan, *(f"{arm[scan]:.4f}" if scan in arm else "" for arm in means.values())])
    write_whole(folder / "by_scan.csv", table.getvalue())
    (folder / "by_scan.png").write_bytes(score_grid(means))


def evaluated(experiment: Experiment, run: Run, folder: Path) -> Path:
    """The table that the evaluation of a run's best weights on the test patients left."""
    return run_folder(experiment, run, folder / "work") / "evaluation" / "test_best" / "cases.csv"


def scan_dice(table: Path) -> dict[str, float]:
    """Mean Dice over the classes of every scan; one that is defined for no class (nothing there to find, and nothing
    found) is left out."""
    dice = defaultdict(list)
    with table.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["dice"]:
                dice[row["case"]].append(float(row["dice"]))
    return {scan: fmean(values) for scan, values in dice.items()}
