"""Scores of predicted class probabilities, with intervals over patients or images.

accuracy            share of cases whose most probable class is the true one
sensitivity         of a class: share of its cases that were given it; NaN without a case
specificity         of a class: share of the other cases that were not given it
balanced accuracy   mean sensitivity over the classes that have a case
AUC                 of a class against the rest: the probability that a case of it has a higher probability of it than
                    another case, ties half (Mann and Whitney, 1947); for two classes both have the same. Over classes
                    the mean.
ECE                 expected calibration error (Naeini et al., 2015) of the most probable class: cases in `BINS` bins of
                    equal width of its probability, mean over cases of the bins' |accuracy - mean probability|. It is
                    biased upwards where bins hold few cases; compare only at the same bins and number of cases.

A value without any error has the interval [1, 1], which is too narrow: resampling cannot draw what was not seen. Of n
independent cases a share of errors of up to about 3 / n remains possible.

A resample without a case of a class that the whole test set has says nothing of that class, nor of means over classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medkd.errors import InputError, raise_all
from medkd.metrics.bootstrap import Floats, Interval, draw_weights, interval
from medkd.metrics.boxes import Unit

BINS = 15
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class PointScores:
    """Values of R weightings of the cases: (R,), of classes (R, K). NaN where undefined."""

    accuracy: Floats
    balanced_accuracy: Floats
    mean_auc: Floats
    ece: Floats
    sensitivity: Floats
    specificity: Floats
    auc: Floats


@dataclass(frozen=True)
class ClassResult:
    cases: int
    predicted: int
    sensitivity: Interval
    specificity: Interval
    auc: Interval


@dataclass(frozen=True)
class Calibration:
    """(BINS,) of the bins of the most probable class: cases, and their mean probability and accuracy (NaN if empty)."""

    cases: NDArray[np.int64]
    probability: Floats
    accuracy: Floats


@dataclass(frozen=True)
class ClassificationScores:
    """A test set. confusion: (K, K) cases, true class by predicted class. Intervals draw `unit`s, of which there are
    `units`; they cover the choice of test cases, not the spread over seeds."""

    cases: int
    unit: Unit
    units: int
    resamples: int
    accuracy: Interval
    balanced_accuracy: Interval
    auc: Interval
    ece: Interval
    classes: Mapping[str, ClassResult]
    confusion: NDArray[np.int64]
    calibration: Calibration


def classification_scores(
    probabilities: Floats,
    truth: Labels,
    classes: Sequence[str],
    units: Sequence[str],
    unit: Unit,
    resamples: int = 1000,
    seed: int = 0,
) -> ClassificationScores:
    """Scores of N cases. probabilities: (N, K), rows sum to 1. truth: (N,) 0 .. K - 1. units: of each case, what is
    drawn as a whole. Raises InputError that lists every problem."""
    _check(probabilities, truth, len(classes), units)
    names, position = np.unique(units, return_inverse=True)
    weights = draw_weights(len(names), resamples, seed)[:, position]
    point, drawn = point_scores(probabilities, truth), point_scores(probabilities, truth, weights)

    def over(name: str, *k: int) -> Interval:
        value, draws = getattr(point, name)[(0, *k)], getattr(drawn, name)[(slice(None), *k)]
        return interval(float(value), draws) if len(names) > 1 else Interval(float(value), np.nan, np.nan)

    matrix = confusion(probabilities, truth, np.ones((1, len(truth))))[0].astype(np.int64)
    rows = {}
    for k, name in enumerate(classes):
        values = (over(score, k) for score in ("sensitivity", "specificity", "auc"))
        rows[name] = ClassResult(int(matrix[k].sum()), int(matrix[:, k].sum()), *values)
    return ClassificationScores(
        len(truth), unit, len(names), resamples, over("accuracy"), over("balanced_accuracy"), over("mean_auc"),
        over("ece"), rows, matrix, calibration(probabilities, truth),
    )  # fmt: skip


def point_scores(probabilities: Floats, truth: Labels, weights: Floats | None = None) -> PointScores:
    """All scores under each row of `weights` (R, N), how often a case counts; without it once (R = 1)."""
    weights = np.ones((1, len(truth))) if weights is None else weights
    present = np.bincount(truth, minlength=probabilities.shape[1]) > 0
    matrix = confusion(probabilities, truth, weights)
    hits, actual, called = np.diagonal(matrix, 0, 1, 2), matrix.sum(2), matrix.sum(1)
    total = matrix.sum((1, 2))[:, None]
    with np.errstate(invalid="ignore"):  # 0 / 0: a class without a case is NaN
        sensitivity = hits / actual
        specificity = (total - actual - called + hits) / (total - actual)
    areas = np.stack([auc(probabilities[:, k], truth == k, weights) for k in range(len(present))], 1)
    judged = present & (np.bincount(truth, minlength=len(present)) < len(truth))
    return PointScores(
        hits.sum(1) / total[:, 0],
        _mean(sensitivity, present),
        _mean(areas, judged),
        _ece(probabilities, truth, weights),
        sensitivity,
        specificity,
        areas,
    )


def confusion(probabilities: Floats, truth: Labels, weights: Floats) -> Floats:
    """(R, K, K): weight of the cases of each true class (rows) that were given each class (columns)."""
    classes = probabilities.shape[1]
    cell = truth * classes + probabilities.argmax(1)
    flat = weights @ (cell[:, None] == np.arange(classes**2)).astype(np.float64)
    return flat.reshape(-1, classes, classes)


def auc(scores: Floats, positive: NDArray[np.bool_], weights: Floats) -> Floats:
    """(R,): area under the ROC curve of scores (N,) under each row of `weights` (R, N); NaN without both kinds.

    >>> auc(np.array([0.9, 0.4, 0.4, 0.1]), np.array([True, True, False, False]), np.ones((1, 4)))
    array([0.875])
    """
    order = np.argsort(scores, kind="stable")
    starts = np.flatnonzero(np.append(True, np.diff(scores[order]) > 0))  # of each run of equal scores
    up, down = (np.add.reduceat(weights[:, order] * kind[order], starts, axis=1) for kind in (positive, ~positive))
    below = np.cumsum(down, 1) - down
    with np.errstate(invalid="ignore"):
        return np.asarray((up * (below + down / 2)).sum(1) / (up.sum(1) * down.sum(1)))


def calibration(probabilities: Floats, truth: Labels) -> Calibration:
    """What a reliability diagram shows."""
    sure, right, bins = _judged(probabilities, truth)
    counts = np.bincount(bins, minlength=BINS)
    with np.errstate(invalid="ignore"):
        return Calibration(counts, np.bincount(bins, sure, BINS) / counts, np.bincount(bins, right, BINS) / counts)


def _ece(probabilities: Floats, truth: Labels, weights: Floats) -> Floats:
    sure, right, bins = _judged(probabilities, truth)
    gaps = (bins[:, None] == np.arange(BINS)) * (right - sure)[:, None]
    return np.asarray(np.abs(weights @ gaps).sum(1) / weights.sum(1))


def _judged(probabilities: Floats, truth: Labels) -> tuple[Floats, Floats, Labels]:
    """Of each case the probability of its most probable class, whether that is right, and its bin: (low, high]."""
    sure = probabilities.max(1)
    bins = np.clip(np.ceil(sure * BINS).astype(np.int64) - 1, 0, BINS - 1)
    return sure, (probabilities.argmax(1) == truth).astype(np.float64), bins


def _mean(values: Floats, which: NDArray[np.bool_]) -> Floats:
    """(R,) over the chosen classes; NaN where one of them is, and where none is chosen."""
    return values[:, which].mean(1) if which.any() else np.full(len(values), np.nan)


def _check(probabilities: Floats, truth: Labels, classes: int, units: Sequence[str]) -> None:
    if probabilities.ndim != 2 or not len(probabilities) or len({len(probabilities), len(truth), len(units)}) > 1:
        raise InputError(
            f"probabilities have the shape {probabilities.shape}, with {len(truth)} labels and {len(units)} units; "
            "at least one case is needed, and one of each a case"
        )
    problems = []
    if probabilities.shape[1] != classes or classes < 2:
        problems.append(f"probabilities are of {probabilities.shape[1]} classes, {classes} are named; two at least")
    if not np.isfinite(probabilities).all() or np.abs(probabilities.sum(1) - 1).max() > 1e-3:
        problems.append("probabilities of a case must be finite and sum to 1")
    if not 0 <= truth.min() <= truth.max() < classes:
        problems.append(f"labels are from {truth.min()} to {truth.max()}; allowed: 0 to {classes - 1}")
    raise_all(problems)
