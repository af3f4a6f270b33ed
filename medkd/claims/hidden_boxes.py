"""How good a detector's pseudo-labels are over time, by boxes that training never sees.

    train(recipe, out, watch=HiddenBoxes)
    rows = curve_rows(read_log(out / "log.jsonl"), "teacher", classes)
    pseudo_label_curves(rows, classes)   # medkd/report/detections.py

A dataset folder may hold boxes of its unlabelled training cases, for diagnosis only. They are read here, at every
validation, and scored under names of their own: the checkpoint is chosen by AP50, which they do not enter.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from medkd.data.detection_dataset import read_hidden_boxes
from medkd.detection.task import DetectionTask
from medkd.metrics.matching import ImageBoxes, box_iou, match
from medkd.runs.tasks.detection import DetectionSetup
from medkd.runs.tasks.protocol import Setup

CASES = 32  # spread over the unlabelled training cases: enough for a curve, quick enough for every validation
THRESHOLD = 0.7  # of a method that has none


class HiddenBoxes:
    """The task of `setup`, whose evaluation also says of a fixed few of the unlabelled cases what a network's
    detections above `threshold` would be worth as labels: for each class `hidden_precision_CLASS` (NaN without a
    detection), `hidden_recall_CLASS` (NaN without a true box) and `hidden_boxes_CLASS`, detections an image.

    The images are seen as validation sees them, without augmentation; a detection is right if it is of the class and
    overlaps a true box that no surer one took by IoU 0.5 (3-D: 0.1). threshold: that of the last phase's method which
    has one. `hidden_seconds` and `hidden_cpu_seconds` are what it took. Raises InputError where the dataset folder
    holds no such boxes.
    """

    def __init__(self, setup: Setup, threshold: float | None = None):
        assert isinstance(setup, DetectionSetup)
        self.task, self.primary, dataset = setup.task, setup.task.primary, setup.dataset
        stated = [getattr(phase.method, "threshold", None) for phase in setup.recipe.phases]
        self.threshold = next((t for t in (threshold, *reversed(stated)) if t is not None), THRESHOLD)
        boxes = read_hidden_boxes(dataset)
        known = [case for case in dataset.select("train", labelled=False) if case.id in boxes]
        chosen = known[:: max(1, len(known) // CASES)][:CASES]
        revealed = replace(dataset, boxes=boxes)
        self.hidden = DetectionTask(revealed, chosen, setup.recipe.preprocess, setup.runtime)

    def supervised_loss(self, output: Tensor, label: Any) -> Tensor:
        return self.task.supervised_loss(output, label)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        scores = self.task.evaluate(network, limit)
        if limit is not None:
            return scores
        started, cpu = time.perf_counter(), time.process_time()
        images = self.hidden.found(network)
        worth: dict[str, float] = {}
        for label, name in enumerate(self.hidden.dataset.classes):
            right, given, true = counted(images, label, self.threshold, self.hidden.ious[0])
            worth[f"hidden_precision_{name}"] = right / given if given else float("nan")
            worth[f"hidden_recall_{name}"] = right / true if true else float("nan")
            worth[f"hidden_boxes_{name}"] = given / len(images)
        took = {"hidden_seconds": time.perf_counter() - started, "hidden_cpu_seconds": time.process_time() - cpu}
        return {**scores, **worth, **took}


def counted(images: Sequence[ImageBoxes], label: int, threshold: float, iou: float) -> tuple[int, int, int]:
    """Of one class over all images: detections above the threshold that are right, all of these, true boxes."""
    right = given = true = 0
    for image in images:
        one = image.only(label)
        order = np.argsort(-one.scores, kind="stable")
        order = order[one.scores[order] > threshold]
        right += int(match(box_iou(one.boxes[order], one.truth), np.array([iou])).sum())
        given, true = given + len(order), true + len(one.truth)
    return right, given, true


def curve_rows(log: Sequence[Mapping[str, Any]], candidate: str, classes: Sequence[str]) -> list[dict[str, float]]:
    """The validation rows of a log as `report.detections.pseudo_label_curves` wants them, of one candidate."""
    rows = []
    for row in log:
        if row["kind"] == "validation" and f"{candidate}/hidden_boxes_{classes[0]}" in row:
            values = {f"{w}/{c}": row[f"{candidate}/hidden_{w}_{c}"] for w in ("precision", "recall") for c in classes}
            rows.append({"step": row["global_step"], **values})
    return rows
