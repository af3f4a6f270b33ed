"""Free-response ROC: the share of lesions found against false alarms an image; image AUC; F1 of lesions.

Every image of the test set counts, also those without lesions and those without predictions. A number of these is
meaningless without its hit rule, so `HitRule.name` goes beside each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medkd.errors import InputError
from medkd.metrics.bootstrap import Interval, draw_weights, interval
from medkd.metrics.boxes import Unit
from medkd.metrics.matching import Floats, ImageBoxes, box_iou, check_images

LEVELS = (0.05, 0.3, 0.5, 1.0)
HIT, FALSE, IGNORED = 1, 0, -1


@dataclass(frozen=True)
class HitRule:
    """When a predicted box finds a lesion of its class.

    kind: "iou" (at least `iou`), "pred_center_in_gt", or "gt_center_in_pred". A prediction finds one lesion at most (of
    several, the one it overlaps most), or else a large box would find all. duplicates: whether another hit on a lesion
    that was found by a higher score is ignored, or a false alarm ("fp").
    """

    kind: Literal["iou", "pred_center_in_gt", "gt_center_in_pred"] = "iou"
    iou: float = 0.5
    duplicates: Literal["ignore", "fp"] = "ignore"

    @property
    def name(self) -> str:
        rule = f"iou>={self.iou:g}" if self.kind == "iou" else self.kind
        return rule + (", duplicates are false alarms" if self.duplicates == "fp" else "")

    def hits(self, boxes: Floats, truth: Floats) -> np.ndarray:
        """(M, N) bool."""
        if self.kind == "iou":
            return np.asarray(box_iou(boxes, truth) >= self.iou)
        if self.kind == "pred_center_in_gt":
            return _inside(_centres(boxes)[:, None], truth[None])
        return _inside(_centres(truth)[None], boxes[:, None])


@dataclass(frozen=True)
class Froc:
    """false_alarms, sensitivity: the operating points, one a distinct score, from the highest down; the first is
    (0, 0). at: sensitivity at each level of false alarms an image: the highest of a point that has no more, never
    extrapolated. lesions, images: of the test set."""

    rule: str
    unit: Unit
    units: int
    images: int
    lesions: int
    thresholds: Floats
    false_alarms: Floats
    sensitivity: Floats
    at: Mapping[float, Interval]
    mean: Interval

    @property
    def most(self) -> tuple[float, float]:
        """The highest sensitivity that is reached, and the false alarms an image it costs."""
        return float(self.sensitivity[-1]), float(self.false_alarms[-1])


def froc(
    images: Sequence[ImageBoxes],
    classes: Sequence[str],
    rule: HitRule,
    unit: Unit,
    levels: Sequence[float] = LEVELS,
    resamples: int = 1000,
    seed: int = 0,
) -> Froc:
    """FROC over all classes together (a prediction finds lesions of its class alone); for one class give
    `[image.only(k) for image in images]`. Undefined (NaN) without a lesion. Raises InputError."""
    check_images(images, len(classes))
    scores, kinds, where = _judged(images, rule)
    lesions = np.array([len(one.truth) for one in images], float)
    names = sorted({one.unit for one in images})
    drawn = draw_weights(len(names), resamples, seed)[:, [names.index(one.unit) for one in images]]
    weights = np.concatenate([np.ones((1, len(images))), drawn])  # the first row is the test set itself
    last = np.append(np.diff(scores) != 0, True) if len(scores) else np.zeros(0, bool)  # equal scores enter together
    nothing = np.zeros((len(weights), 1))
    times = weights[:, where]
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity = np.cumsum(times * (kinds == HIT), 1)[:, last] / (weights @ lesions)[:, None]
        alarms = np.cumsum(times * (kinds == FALSE), 1)[:, last] / weights.sum(1, keepdims=True)
        sensitivity = np.concatenate([nothing / (weights @ lesions)[:, None], sensitivity], 1)
    alarms = np.concatenate([nothing, alarms], 1)
    reached = np.stack([_at(alarms, sensitivity, level) for level in levels], 1)  # (1 + R, levels)
    return Froc(
        rule.name, unit, len(names), len(images), int(lesions.sum()),
        np.concatenate([[np.inf], scores[last]]), alarms[0], sensitivity[0],
        {level: interval(float(reached[0, i]), reached[1:, i]) for i, level in enumerate(levels)},
        interval(float(reached[0].mean()), reached[1:].mean(1)),
    )  # fmt: skip


def centre_errors(images: Sequence[ImageBoxes], rule: HitRule) -> Floats:
    """(hits,): how far the middle of each prediction that finds a lesion is from the lesion's, in the unit of the
    boxes. What an overlap hides: it is the same in voxels and in mm."""
    found: list[Floats] = []
    for one in images:
        order = np.argsort(-one.scores, kind="stable")
        kinds, which = _judge(one, order, rule)
        apart = _centres(one.boxes[order][kinds == HIT]) - _centres(one.truth[which[kinds == HIT]])
        found.append(np.linalg.norm(apart, axis=1))
    return np.concatenate(found) if found else np.zeros(0)


def image_auc(images: Sequence[ImageBoxes]) -> float:
    """ROC-AUC of the highest score of an image (below all others without a box) against whether it has a lesion.

    NaN where all images have one, or none has. Ties count half.
    """
    best = np.array([one.scores.max(initial=-np.inf) for one in images])
    ill = np.array([len(one.truth) > 0 for one in images], bool)
    if ill.all() or not ill.any():
        return float("nan")
    positive, negative = best[ill][:, None], best[~ill][None]
    return float(((positive > negative) + 0.5 * (positive == negative)).mean())


def lesion_f1(images: Sequence[ImageBoxes], threshold: float, rule: HitRule) -> float:
    """2 TP / (2 TP + FP + missed) over the lesions of all images, of predictions with at least this score.

    NaN where there is neither a lesion nor a prediction. Choose the threshold by `best_threshold` on other images.
    """
    scores, kinds, _ = _judged(images, rule)
    kept = kinds[scores >= threshold]
    found, alarms = int((kept == HIT).sum()), int((kept == FALSE).sum())
    counted = sum(len(one.truth) for one in images) + found + alarms
    return 2 * found / counted if counted else float("nan")


def best_threshold(images: Sequence[ImageBoxes], rule: HitRule) -> float:
    """The score from which on predictions have the highest lesion F1 on these (validation) images; of equal ones the
    highest. Raises InputError where no prediction finds a lesion."""
    scores, kinds, _ = _judged(images, rule)
    found, alarms = np.cumsum(kinds == HIT), np.cumsum(kinds == FALSE)
    if not len(scores) or not found[-1]:
        raise InputError(f"no prediction of {len(images)} validation images finds a lesion ({rule.name})")
    f1 = 2 * found / (sum(len(one.truth) for one in images) + found + alarms)
    last = np.append(np.diff(scores) != 0, True)
    return float(scores[last][np.argmax(f1[last])])


def _judged(images: Sequence[ImageBoxes], rule: HitRule) -> tuple[Floats, np.ndarray, np.ndarray]:
    """Scores (M,) of all predictions from the highest down, what each is (M,), and the number of its image (M,)."""
    scores, kinds, where = [np.zeros(0)], [np.zeros(0, int)], [np.zeros(0, int)]
    for number, one in enumerate(images):
        order = np.argsort(-one.scores, kind="stable")
        scores.append(one.scores[order])
        kinds.append(_judge(one, order, rule)[0])
        where.append(np.full(len(order), number))
    merged = np.argsort(-np.concatenate(scores), kind="stable")
    return tuple(np.concatenate(parts)[merged] for parts in (scores, kinds, where))  # type: ignore[return-value]


def _judge(one: ImageBoxes, order: np.ndarray, rule: HitRule) -> tuple[np.ndarray, np.ndarray]:
    """What each prediction of an image is, in `order`: HIT, FALSE or IGNORED; and the lesion that it hits, else -1."""
    boxes = one.boxes[order]
    able = rule.hits(boxes, one.truth) & (one.labels[order][:, None] == one.truth_labels[None])
    overlap = box_iou(boxes, one.truth)
    found = np.zeros(len(one.truth), bool)
    kinds, which = np.full(len(order), FALSE), np.full(len(order), -1)
    for m in range(len(order)):
        free = able[m] & ~found
        if free.any():
            which[m] = np.argmax(np.where(free, overlap[m], -1.0))
            found[which[m]], kinds[m] = True, HIT
        elif able[m].any() and rule.duplicates == "ignore":
            kinds[m] = IGNORED
    return kinds, which


def _at(alarms: Floats, sensitivity: Floats, level: float) -> Floats:
    """(rows,): both rise from left to right, so the best point is the last that is allowed."""
    last = (alarms <= level + 1e-12).sum(1) - 1
    return np.asarray(np.take_along_axis(sensitivity, last[:, None], 1)[:, 0])


def _centres(boxes: Floats) -> Floats:
    dims = boxes.shape[1] // 2
    return (boxes[:, :dims] + boxes[:, dims:]) / 2


def _inside(points: Floats, boxes: Floats) -> np.ndarray:
    dims = boxes.shape[-1] // 2
    return np.asarray(((points >= boxes[..., :dims]) & (points < boxes[..., dims:])).all(-1))
