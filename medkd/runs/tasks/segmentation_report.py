"""The page of an evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medkd.data.dataset import Dataset
from medkd.data.preprocess import thickest_axis
from medkd.imaging.geometry import to_canonical, voxel_sizes
from medkd.metrics.cases import CaseScores
from medkd.report.page import Page
from medkd.report.pictures import overlay_grid
from medkd.report.slices import Slice, cut
from medkd.runs.tasks.segmentation_evaluation import Shown, summary_table


def write_evaluation_report(
    folder: Path,
    dataset: Dataset,
    summary: dict[str, Any],
    scores: list[CaseScores],
    picked: list[tuple[Shown, CaseScores]],
) -> None:
    """Write FOLDER/overlays.png and FOLDER/report.html; `picked` are shown from worst to best."""
    picture = overlay_grid([slice_of(shown, score) for shown, score in picked], dataset.classes)
    (folder / "overlays.png").write_bytes(picture)
    headers, rows = summary_table(summary)
    overall = summary["mean_over_classes"]
    page = Page("Evaluation", f"{summary['cases']} {summary['split']} scans of {summary['patients']} patients")
    page.table(headers, rows, "mean ± sd over scans; the last row averages the classes. Undefined values are left out.")
    page.facts(
        {
            "Dice, 95 % interval over patients": interval(overall["metrics"]["dice"]),
            "structures missed (nothing predicted)": overall["missed"],
            "false alarms (nothing there)": overall["false_alarms"],
            "weights": summary["weights"],
        }
    )
    page.section("Scans, from the worst to the best")
    page.picture(picture, "The slice with most foreground of each scan.", "image, truth, prediction and disagreement")
    page.section("Every scan")
    names, unit = dataset.classes[1:], scores[0].rows[0].unit
    page.table(
        ["scan", *(f"{n} Dice" for n in names), *(f"{n} HD95 ({unit})" for n in names)],
        [[s.case, *(row.dice for row in s.rows), *(row.hd95 for row in s.rows)] for s in scores],
    )
    page.write(folder / "report.html")


def slice_of(shown: Shown, score: CaseScores) -> Slice:
    """The slice with most foreground, on RAS+ axes, across the thickest axis."""
    image, affine, _ = to_canonical(shown.scan.array, shown.scan.affine)
    truth, predicted = (to_canonical(a, shown.scan.affine)[0] for a in (shown.truth.array, shown.predicted))
    x, y, z = (float(v) for v in voxel_sizes(affine))
    dice = {row.name: row.dice for row in score.rows}
    return cut(shown.case.id, image, truth, predicted, (x, y, z), axis=thickest_axis(affine), dice=dice)


def interval(estimate: dict[str, Any]) -> str:
    """mean [low, high] for a page."""
    if estimate["low"] is None:
        return f"{estimate['mean']:.3f} (too few patients for an interval)"
    return f"{estimate['mean']:.3f} [{estimate['low']:.3f}, {estimate['high']:.3f}]"
