"""Which test scans an arm gets right: the evaluations of the finished runs as one table beside the page, drawn; and
what a difference of two arms owes to the choice of test patients."""

from __future__ import annotations

import csv
import io
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import numpy as np

from medkd.claims.experiment import Experiment
from medkd.claims.runner import Run, finished, run_folder
from medkd.data.dataset import read_dataset, write_whole
from medkd.metrics.bootstrap import Estimate, draw_weights, estimate
from medkd.report.score_grid import score_grid


def write_scan_scores(experiment: Experiment, folder: Path) -> None:
    """Write FOLDER/by_scan.csv and by_scan.png: Dice of the best weights, mean over the classes and the finished seeds.

    by_scan.csv: scan, patient, a column an arm.

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
    datasets = {experiment.dataset(run, folder / "work") for run in runs}
    patients = {case.id: case.patient for data in datasets for case in read_dataset(data).select("test")}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["scan", "patient", *means])
    for scan in dict.fromkeys(scan for arm in means.values() for scan in arm):
        writer.writerow([scan, patients[scan], *(f"{arm[scan]:.4f}" if scan in arm else "" for arm in means.values())])
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


def over_patients(folder: Path, better: str, worse: str, resamples: int = 2000) -> Estimate | None:
    """Mean difference of two arms with its 95 % bootstrap interval over the test patients, from FOLDER/by_scan.csv.

    Seeds are averaged before: what they spread by is not in it. Each patient weighs the same. None without both arms.
    """
    table = folder / "by_scan.csv"
    if not table.exists():
        return None
    with table.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    pairs = [(row["patient"], row.get(better), row.get(worse)) for row in rows if "patient" in row]
    found = defaultdict(list)
    for patient, more, less in pairs:
        if more and less:
            found[patient].append(float(more) - float(less))
    if not found:
        return None
    means = np.array([[fmean(values)] for values in found.values()])
    return estimate(means, np.arange(len(means)), draw_weights(len(means), resamples, 0))[1]
