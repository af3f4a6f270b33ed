"""Score a classifier on the held-out cases of a dataset.

FOLDER/cases.csv  summary.json  confusion.png  reliability.png  report.html
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medkd.classification.classify import probabilities, read_images
from medkd.classification.model import ClassificationModel
from medkd.data.classification_dataset import ClassificationDataset, read_classification_dataset
from medkd.data.dataset import write_whole
from medkd.data.image_cases import ImageCase
from medkd.errors import raise_all
from medkd.inference.model_folder import Model
from medkd.metrics.bootstrap import Interval
from medkd.metrics.classification import BINS, ClassificationScores, classification_scores
from medkd.runs.tasks.protocol import Evaluation, Progress, Table

AT_ONCE = 16
ECE = f"ece_top_class_{BINS}_equal_width_bins"


@dataclass(frozen=True)
class Scored:
    """One case: what is true, and (K,) probabilities."""

    case: ImageCase
    truth: int
    probabilities: np.ndarray


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
    """Accuracy, AUC, calibration and each class, with intervals over patients, or images where nobody knows them."""
    description = model.description
    assert isinstance(description, ClassificationModel)
    dataset = read_classification_dataset(data)
    _check(description, dataset, split)
    network, cases = model.network.to(device), dataset.select(split)
    scored: list[Scored] = []
    for first in range(0, len(cases), AT_ONCE):
        part = cases[first : first + AT_ONCE]
        images = read_images([case.image for case in part], len(description.channels), description.preprocess)
        found = probabilities(network, images.to(device)).double().numpy()
        scored += [Scored(case, dataset.truth(case), row) for case, row in zip(part, found)]
        if progress:
            progress(len(scored), len(cases))
    scores = classification_scores(
        np.stack([one.probabilities for one in scored]), np.array([one.truth for one in scored]), dataset.classes,
        [one.case.patient for one in scored], dataset.unit,
    )  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    write_whole(folder / "cases.csv", _table(scored, dataset.classes))
    summary = {"split": split, "weights": weights or "shipped", **summary_of(scores)}
    write_whole(folder / "summary.json", json.dumps(summary, indent=1))
    table = summary_table(summary)
    if pictures:
        _report(folder, dataset, scores, summary, table)
    return Evaluation(folder, scored, summary, table)


def summary_of(scores: ClassificationScores) -> dict[str, Any]:
    """A plain dict for JSON; undefined values are None."""

    def plain(one: Interval) -> dict[str, float | None]:
        numbers = {"value": one.value, "low": one.low, "high": one.high}
        return {name: None if np.isnan(v) else float(v) for name, v in numbers.items()}

    return {
        "cases": scores.cases, "unit": scores.unit, "units": scores.units, "resamples": scores.resamples,
        "accuracy": plain(scores.accuracy), "balanced_accuracy": plain(scores.balanced_accuracy),
        "auc_mean_one_vs_rest": plain(scores.auc), ECE: plain(scores.ece),
        "classes": {
            name: {
                "cases": one.cases, "predicted": one.predicted, "sensitivity": plain(one.sensitivity),
                "specificity": plain(one.specificity), "auc_one_vs_rest": plain(one.auc),
            }
            for name, one in scores.classes.items()
        },
        "confusion": scores.confusion.tolist(),
    }  # fmt: skip


def summary_table(summary: dict[str, Any]) -> Table:
    """Headers and rows for the console and the page; brackets hold the 95 % interval. The last row is of all classes:
    its sensitivity is the balanced accuracy."""
    headers = ["class", "cases", "predicted", "sensitivity", "specificity", "AUC"]
    rows = [
        [name, str(g["cases"]), str(g["predicted"]), *(_cell(g[m]) for m in
         ("sensitivity", "specificity", "auc_one_vs_rest"))]
        for name, g in summary["classes"].items()
    ]  # fmt: skip
    total = str(summary["cases"])
    mean = [_cell(summary["balanced_accuracy"]), "", _cell(summary["auc_mean_one_vs_rest"])]
    return headers, [*rows, ["mean over classes", total, total, *mean]]


def _cell(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "undefined"
    interval = "" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value['value']:.3f}{interval}"


def _table(scored: Sequence[Scored], classes: Sequence[str]) -> str:
    """One row a case. Patients are not written: the dataset's cases.csv knows them."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["case", "class", "predicted", *(f"p_{name}" for name in classes)])
    for one in scored:
        best = classes[int(one.probabilities.argmax())]
        writer.writerow([one.case.id, classes[one.truth], best, *(f"{p:.6g}" for p in one.probabilities)])
    return out.getvalue()


def _report(
    folder: Path, dataset: ClassificationDataset, scores: ClassificationScores, summary: dict[str, Any], table: Table
) -> None:
    from medkd.report.classification import confusion_matrix, reliability_diagram
    from medkd.report.page import Page

    page = Page("Evaluation", f"{scores.cases} {summary['split']} images, {scores.units} {scores.unit}s")
    page.table(
        *table,
        f"95 % intervals over {scores.unit}s. AUC: each class against the rest. An interval of no width says only "
        "that no error was seen: among n cases a share of up to 3 / n can stay unseen.",
    )
    page.facts({
        "accuracy": _cell(summary["accuracy"]), "balanced accuracy": _cell(summary["balanced_accuracy"]),
        f"expected calibration error ({BINS} bins of equal width, most probable class)": _cell(summary[ECE]),
        "weights": summary["weights"],
    })  # fmt: skip
    matrix = confusion_matrix(scores.confusion, dataset.classes)
    bins = scores.calibration
    curve = reliability_diagram(bins.cases, bins.probability, bins.accuracy)
    for name, png in (("confusion", matrix), ("reliability", curve)):
        (folder / f"{name}.png").write_bytes(png)
    page.section("Confusion")
    page.picture(matrix, "Cases of each true class (rows) by predicted class; shade: share of the row.", "confusion")
    page.section("Calibration")
    page.picture(curve, "How often the most probable class was right, by its probability.", "reliability diagram")
    page.write(folder / "report.html")


def _check(description: ClassificationModel, dataset: ClassificationDataset, split: str) -> None:
    problems = []
    for name in ("classes", "channels"):
        theirs, ours = getattr(description, name), getattr(dataset, name)
        if theirs != ours:
            problems.append(f"the model's {name} are {theirs}, the dataset's {ours}; they must be the same")
    if not dataset.select(split):
        problems.append(f"the dataset has no {split} case")
    raise_all(problems)
