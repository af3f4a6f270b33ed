"""Average precision of boxes as COCO defines it, with intervals over patients or images.

AP is the mean over IoU thresholds .50, .55 ... .95 of the mean precision at 101 recalls; AP50 is that of the threshold
.50; over classes the mean of those that have a true box. Values in 2-D are those of the COCO evaluation itself
(faster-coco-eval); 3-D and resampled values come from the same definition in `matching.py` and here, which a test
holds against COCO's in 2-D.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medkd.errors import InputError
from medkd.metrics.bootstrap import Interval, draw_weights, interval
from medkd.metrics.matching import Floats, ImageBoxes, box_iou, check_images, match

IOUS = (0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)
RECALLS = np.linspace(0.0, 1.0, 101)
MOST = 100  # predictions of one class in one image that count, those of highest score
Unit = Literal["patient", "image"]


@dataclass(frozen=True)
class ClassAP:
    """One class: `boxes` true ones. `at`: IoU threshold -> AP at it. NaN for a class without a true box."""

    boxes: int
    ap: Interval
    at: Mapping[float, Interval]


@dataclass(frozen=True)
class BoxScores:
    """A test set. `ap`, `at`: means over the classes with a true box. Intervals draw `unit`s, of which there are
    `units`; they cover the choice of test cases, not the spread over seeds."""

    images: int
    unit: Unit
    units: int
    resamples: int
    ap: Interval
    at: Mapping[float, Interval]
    classes: Mapping[str, ClassAP]


def box_scores(
    images: Sequence[ImageBoxes],
    classes: Sequence[str],
    unit: Unit,
    ious: Sequence[float] = IOUS,
    resamples: int = 1000,
    seed: int = 0,
) -> BoxScores:
    """AP of predicted boxes, in 2-D or 3-D. classes: names by label. unit: what `ImageBoxes.unit` names.

    ious: a common choice in 3-D is (0.1, 0.25, 0.5). Raises InputError that lists every problem.
    """
    if not ious or not all(0 < value <= 1 for value in ious):
        raise InputError(f"IoU thresholds are {list(ious)}; numbers above 0 and up to 1 are needed")
    check_images(images, len(classes))
    names = sorted({one.unit for one in images})
    weights = draw_weights(len(names), resamples, seed)[:, [names.index(one.unit) for one in images]]
    values = average_precision(images, len(classes), ious)
    drawn = np.stack([_resampled(images, label, ious, weights) for label in range(len(classes))], -1)  # (R, T, K)
    present = ~np.isnan(values[0])

    def over(which: Any) -> tuple[Interval, dict[float, Interval]]:
        """AP and AP at each threshold, mean over the classes that `which` selects; a resample without one of them
        says nothing."""
        at = {iou: interval(_mean(values[t, which]), drawn[:, t, which].mean(-1)) for t, iou in enumerate(ious)}
        return interval(_mean(values[:, which]), drawn[:, :, which].mean((1, 2))), at

    rows = {}
    for label, name in enumerate(classes):
        ap, at = over([label])
        rows[name] = ClassAP(sum(int((one.truth_labels == label).sum()) for one in images), ap, at)
    ap, at = over(present) if present.any() else over([0])
    return BoxScores(len(images), unit, len(names), resamples, ap, at, rows)


def _mean(values: Floats) -> float:
    return float(values.mean())


def average_precision(images: Sequence[ImageBoxes], classes: int, ious: Sequence[float] = IOUS) -> Floats:
    """(T, K): AP at each IoU threshold of each class; NaN for classes without a true box."""
    flat = all(one.truth.shape[1] == 4 for one in images)
    if flat and any(len(one.scores) for one in images):
        return _coco(images, classes, ious)
    once = np.ones((1, len(images)))
    return np.stack([_resampled(images, label, ious, once)[0] for label in range(classes)], -1)


def _coco(images: Sequence[ImageBoxes], classes: int, ious: Sequence[float]) -> Floats:
    """By faster-coco-eval; see docs/architecture.md for why this one."""
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError:
        raise InputError("scores of boxes need faster-coco-eval: pip install 'medkd[detection]'") from None
    truth: list[dict[str, Any]] = []
    found: list[dict[str, Any]] = []
    for number, one in enumerate(images, 1):
        for box, label in zip(one.truth, one.truth_labels):
            row = _coco_box(box, label, number)
            truth.append(row | {"id": len(truth) + 1, "iscrowd": 0})
        found += [
            _coco_box(box, label, number) | {"score": float(score)}
            for box, label, score in zip(one.boxes, one.labels, one.scores)
        ]
    known = {
        "images": [{"id": number} for number in range(1, len(images) + 1)],
        "annotations": truth,
        "categories": [{"id": label, "name": str(label)} for label in range(1, classes + 1)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        data = COCO(known)
        run = COCOeval_faster(data, data.loadRes(found), "bbox")
        run.params.iouThrs, run.params.maxDets = np.array(ious, np.float64), [MOST]
        run.params.areaRng, run.params.areaRngLbl = [[0, 1e20]], ["all"]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, 0]  # (T, recalls, K), -1 where there is no true box
    return np.asarray(np.where((precision < 0).all(1), np.nan, precision.mean(1)))


def _coco_box(box: Floats, label: int, image: int) -> dict[str, Any]:
    x, y, w, h = float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])
    return {"image_id": image, "category_id": int(label) + 1, "bbox": [x, y, w, h], "area": w * h}


def _resampled(images: Sequence[ImageBoxes], label: int, ious: Sequence[float], weights: Floats) -> Floats:
    """(R, T): AP of one class where image i counts `weights[r, i]` times."""
    scores, hits, where = [], [], []
    true = np.zeros(len(images))
    for number, image in enumerate(images):
        one = image.only(label)
        order = np.argsort(-one.scores, kind="stable")[:MOST]
        true[number] = len(one.truth)
        scores.append(one.scores[order])
        hits.append(match(box_iou(one.boxes[order], one.truth), np.asarray(ious)))
        where.append(np.full(len(order), number))
    order = np.argsort(-np.concatenate(scores), kind="stable")
    found = np.concatenate(hits, 1)[:, order]  # (T, M)
    times = weights[:, np.concatenate(where)[order]]  # (R, M)
    total = weights @ true
    return np.stack([_interpolated(times, row, total) for row in found], -1)


def _interpolated(times: Floats, hit: Any, total: Floats) -> Floats:
    """(R,): the mean over 101 recalls of the best precision at that recall or a higher one."""
    hits, all_of_them = np.cumsum(times * hit, 1), np.cumsum(times, 1)
    out = np.full(len(total), np.nan)
    recall = hits / np.where(total > 0, total, np.nan)[:, None]
    precision = hits / np.maximum(all_of_them, np.spacing(1))
    envelope = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
    for row in np.flatnonzero(total > 0):
        at = np.searchsorted(recall[row], RECALLS, side="left")
        reached = at < recall.shape[1]
        out[row] = envelope[row, at[reached]].sum() / len(RECALLS)
    return out
