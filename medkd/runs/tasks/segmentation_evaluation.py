"""Score a segmentation model on the held-out cases of a dataset, on each scan's own grid.

FOLDER/cases.csv  summary.json  overlays.png  report.html
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medkd.data.dataset import Case, Dataset, read_dataset
from medkd.errors import raise_all
from medkd.imaging.nifti import Scan, read_nifti
from medkd.inference.model_folder import Model
from medkd.inference.segment import segment
from medkd.metrics.cases import CaseScores
from medkd.metrics.scores import segmentation_scores
from medkd.metrics.summary import summarise
from medkd.metrics.table import as_json, write_csv
from medkd.runs.tasks.protocol import Evaluation, Progress

PICTURED = 6


def evaluate(
    model: Model,
    data: Path,
    split: str,
    folder: Path,
    weights: str | None,
    device: torch.device,
    pictures: bool,
    progress: Progress | None,
) -> Evaluation:
    """Segment every case of the split and score it; writes cases.csv, summary.json and, with pictures, a report."""
    dataset = read_dataset(data)
    _check(model, dataset, split)
    cases = dataset.select(split)
    # One unit for all: millimetres only if every case states its spacing.
    known = all(case.spacing is not None for case in cases)
    scores = []
    for number, case in enumerate(cases):
        done = _segment_case(model, case, device)
        spacing = done.scan.spacing if known else None
        rows = segmentation_scores(done.predicted, done.truth.array.astype(np.uint8), dataset.classes, spacing)
        scores.append(CaseScores(case.id, case.patient, tuple(rows)))
        if progress:
            progress(number + 1, len(cases))

    folder.mkdir(parents=True, exist_ok=True)
    summary = {"split": split, "weights": weights or "shipped", **as_json(summarise(scores))}
    write_csv(scores, folder / "cases.csv")
    (folder / "summary.json").write_text(json.dumps(summary, indent=1))
    if pictures:
        from medkd.runs.tasks.segmentation_report import write_evaluation_report

        picked = spread([float(np.nan_to_num([r.dice for r in s.rows], nan=1.0).mean()) for s in scores], PICTURED)
        # segmented once more: to keep every scan until the ranking is known would fill the memory
        shown = [(_segment_case(model, cases[i], device), scores[i]) for i in picked]
        write_evaluation_report(folder, dataset, summary, scores, shown)
    return Evaluation(folder, scores, summary, summary_table(summary))


@dataclass(frozen=True)
class Shown:
    """A case, segmented: what scores and pictures need."""

    case: Case
    scan: Scan
    truth: Scan
    predicted: np.ndarray


def _segment_case(model: Model, case: Case, device: torch.device) -> Shown:
    assert case.label is not None  # _check refuses cases without
    scans = [read_nifti(path) for path in case.images]
    return Shown(case, scans[0], read_nifti(case.label), segment(model, scans, device))


def spread(values: list[float], count: int) -> list[int]:
    """Positions of `count` values from worst to best, evenly spread over the ranking."""
    order = np.argsort(values, kind="stable")
    return [int(order[i]) for i in np.linspace(0, len(order) - 1, min(count, len(order))).round().astype(int)]


def summary_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headers and rows of a summary, for the console and for pages: mean, sd and interval of each metric."""
    metrics = list(summary["mean_over_classes"]["metrics"])
    headers = ["class", *metrics, "missed", "false alarms"]
    groups = {**summary["classes"], "mean": summary["mean_over_classes"]}
    rows = [
        [name, *(_cell(group["metrics"][m]) for m in metrics), str(group["missed"]), str(group["false_alarms"])]
        for name, group in groups.items()
    ]
    return headers, rows


def _cell(estimate: dict[str, Any]) -> str:
    if estimate["mean"] is None:
        return "undefined"
    return f"{estimate['mean']:.3f} ± {estimate['sd'] or 0:.3f}"


def _check(model: Model, dataset: Dataset, split: str) -> None:
    d, problems = model.description, []
    if d.classes != dataset.classes:
        problems.append(f"the model's classes are {d.classes}, the dataset's {dataset.classes}; they must be the same")
    if d.channels != dataset.channels:
        problems.append(f"the model's channels are {d.channels}, the dataset's {dataset.channels}")
    if not dataset.select(split):
        problems.append(f"the dataset has no {split} case")
    problems += [f"case {c.id} of split {split} has no label" for c in dataset.select(split) if c.label is None]
    raise_all(problems)
