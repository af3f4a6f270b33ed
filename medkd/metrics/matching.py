"""True and predicted boxes of an image, in 2-D or 3-D, and which prediction finds which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medkd.errors import raise_all

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True)
class ImageBoxes:
    """One image: its true boxes and what was predicted.

    unit: what a bootstrap draws it with, its patient or the image itself. truth (N, 2 * D), truth_labels (N,), boxes
    (M, 2 * D), labels (M,), scores (M,): corners low then high along every axis, labels 0 .. K - 1.
    """

    image: str
    unit: str
    truth: Floats
    truth_labels: Integers
    boxes: Floats
    labels: Integers
    scores: Floats

    def only(self, label: int) -> ImageBoxes:
        """What is of one class."""
        true, found = self.truth_labels == label, self.labels == label
        return replace(
            self, truth=self.truth[true], truth_labels=self.truth_labels[true], boxes=self.boxes[found],
            labels=self.labels[found], scores=self.scores[found],
        )  # fmt: skip


def image_boxes(
    image: str, unit: str, truth: Any, truth_labels: Any, boxes: Any, labels: Any, scores: Any, dims: int = 2
) -> ImageBoxes:
    """`ImageBoxes` from anything that is like an array, also from empty lists."""
    corners = [np.asarray(values, np.float64).reshape(-1, 2 * dims) for values in (truth, boxes)]
    classes = [np.asarray(values, np.intp).reshape(-1) for values in (truth_labels, labels)]
    return ImageBoxes(image, unit, corners[0], classes[0], corners[1], classes[1], np.asarray(scores, np.float64))


def check_images(images: Sequence[ImageBoxes], classes: int) -> None:
    """Raise InputError that lists every problem: shapes, boxes without a size, unknown classes, scores."""
    problems = [] if images else ["no image to score"]
    seen: set[str] = set()
    for one in images:
        if one.image in seen:
            problems.append(f"image {one.image} is given twice")
        seen.add(one.image)
        problems += [f"image {one.image}: {problem}" for problem in _problems(one, classes)]
    if len({one.truth.shape[1] for one in images if one.truth.ndim == 2}) > 1:
        problems.append("some boxes are 2-D and some 3-D")
    raise_all(problems)


def _problems(one: ImageBoxes, classes: int) -> list[str]:
    problems = []
    for what, boxes, labels in (("true", one.truth, one.truth_labels), ("predicted", one.boxes, one.labels)):
        if boxes.ndim != 2 or boxes.shape[1] not in (4, 6) or len(labels) != len(boxes):
            problems.append(f"{what} boxes {boxes.shape} with {len(labels)} labels; (N, 4) or (N, 6) and N are needed")
            continue
        dims = boxes.shape[1] // 2
        if not np.isfinite(boxes).all() or (boxes[:, dims:] <= boxes[:, :dims]).any():
            problems.append(f"a {what} box has a corner that is not finite, or no size; drop it first")
        if len(labels) and not 0 <= labels.min() <= labels.max() < classes:
            problems.append(f"a {what} box has the label {labels.min()} or {labels.max()}; allowed: 0 to {classes - 1}")
    if len(one.scores) != len(one.boxes) or not np.isfinite(one.scores).all():
        problems.append(f"{len(one.scores)} scores for {len(one.boxes)} predicted boxes; needed: one finite score each")
    return problems


def box_iou(a: Floats, b: Floats) -> Floats:
    """(len(a), len(b)): intersection over union of boxes (N, 2 * D) in any number of dimensions.

    >>> box_iou(np.array([[0.0, 0, 2, 2]]), np.array([[1.0, 0, 3, 2], [5, 5, 6, 6]])).round(4).tolist()
    [[0.3333, 0.0]]
    """
    dims = a.shape[1] // 2
    low = np.maximum(a[:, None, :dims], b[None, :, :dims])
    high = np.minimum(a[:, None, dims:], b[None, :, dims:])
    shared = np.prod(np.clip(high - low, 0, None), axis=-1)
    sizes = [np.prod(boxes[:, dims:] - boxes[:, :dims], axis=-1) for boxes in (a, b)]
    return np.asarray(shared / np.maximum(sizes[0][:, None] + sizes[1][None] - shared, 1e-300))


def match(iou: Floats, thresholds: Floats) -> NDArray[np.bool_]:
    """COCO's matching: (T, M), whether each of M predictions finds a true box at each threshold.

    iou: (M, N), predictions in descending order of score. In that order each takes the true box it overlaps most of
    those that are not taken, if by at least the threshold; of equal ones the last.
    """
    predicted, true = iou.shape
    hits = np.zeros((len(thresholds), predicted), bool)
    if not true:
        return hits
    taken = np.zeros((len(thresholds), true), bool)
    rows = np.arange(len(thresholds))
    for m in range(predicted):
        free = np.where(taken, -1.0, iou[m])  # (T, N)
        best = true - 1 - np.argmax(free[:, ::-1], axis=1)
        hits[:, m] = free[rows, best] >= np.minimum(thresholds, 1 - 1e-10)
        taken[rows[hits[:, m]], best[hits[:, m]]] = True
    return hits
