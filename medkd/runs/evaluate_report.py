"""The page of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medkd.data.dataset import Dataset
from medkd.data.preprocess import thickest_axis
from medkd.imaging.geometry import to_canonical, voxel_sizes
from medkd.metrics.cases import CaseScores
from medkd.report.page import Page
from medkd.report.pictures import Overlay, best_slice, overlay_grid
from medkd.runs.evaluate import Shown, summary_table


def write_evaluation_report(
    folder: Path,
    dataset: Dataset,
    summary: dict[str, Any],
    scores: list[CaseScores],
    picked: list[tuple[Shown, CaseScores]],
) -> None:
    """Write FOLDER/overlays.png and FOLDER/report.html; `picked` are shown from worst to best."""
    picture = overlay_grid([overlay(shown, score) for shown, score in picked], dataset.classes)
    (folder / "overlays.png").write_bytes(picture)
    headers, rows = summary_table(summary)
    page = Page("Evaluation", f"{summary['cases']} {summary['split']} scans of {summary['patients']} patients")
    page.table(
        headers, rows, "mean ± sd over scans; the last row averages the classes. Undefined distances are left out."
    )
    overall = summary["mean_over_classes"]
    page.facts(
        {
            "Dice, 95 % interval over patients": interval(overall["metrics"]["dice"]),
            "structures missed (nothing predicted)": overall["missed"],
            "false alarms (nothing there)": overall["false_alarms"],
            "weights": summary["weights"],
        }
    )
    page.section("Scans, from the worst to the best").picture(
        picture,
        "The slice with most foreground. The patient's right is on the left.",
        "image, truth, prediction, errors",
    )
    table = [
        [score.case, *(f"{row.dice:.3f}" for row in score.rows), *(f"{row.hd95:.1f}" for row in score.rows)]
        for score in scores
    ]
    names = dataset.classes[1:]
    unit = scores[0].rows[0].unit
    page.section("Every scan").table(
        ["scan", *(f"{n} Dice" for n in names), *(f"{n} HD95 ({unit})" for n in names)], table
    )
    page.write(folder / "report.html")


def overlay(shown: Shown, score: CaseScores) -> Overlay:
    """The slice with most foreground, on RAS+ axes, across the thickest axis."""
    volumes = [to_canonical(a, shown.scan.affine) for a in (shown.scan.array, shown.truth.array, shown.predicted)]
    affine = volumes[0][1]
    axis = thickest_axis(affine)
    image, truth, predicted = (v[0] for v in volumes)
    index = best_slice(truth if (truth > 0).any() else predicted, axis)
    sizes = np.delete(voxel_sizes(affine), axis)
    dice = np.nanmean([row.dice for row in score.rows])
    return Overlay(
        f"{shown.case.id}\nDice {dice:.2f}",
        *(np.take(v, index, axis) for v in (image, truth, predicted)),
        (float(sizes[0]), float(sizes[1])),
    )


def interval(estimate: dict[str, Any]) -> str:
    """mean [low, high] in words for a page."""
    if estimate["low"] is None:
        return f"{estimate['mean']:.3f} (too few patients for an interval)"
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
