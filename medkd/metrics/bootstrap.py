"""Means with 95 % percentile bootstrap intervals over patients (Efron, 1979), classes averaged last.

A patient is drawn with all of its cases: two scans of one heart are not two independent observations. The
interval covers the choice of test patients only; the spread over training seeds is another matter.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean over cases of one class, or the mean over classes of those means. NaN where there is none.

    `sd` is the sample standard deviation (n - 1) over cases; over classes, that of the case's mean over its
    defined classes.
    """

    mean: float
    sd: float
    low: float  # 95 % interval; NaN with fewer than two patients
    high: float
    n: int  # defined values
    undefined: int  # values left out
    classes: int  # classes with a defined mean
    undefined_resamples: int  # resamples without a value of one of these classes, left out of the interval


def draw_weights(patients: int, resamples: int, seed: int) -> Floats:
    """(resamples, patients): how often each patient is drawn in `patients` draws with replacement."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(patients, np.full(patients, 1 / patients), size=resamples).astype(np.float64)


def patient_totals(values: Floats, patient: NDArray[np.intp], patients: int) -> tuple[Floats, Floats]:
    """Sum and number of each patient's defined values, both (patients, classes), from (cases, classes)."""
    defined = ~np.isnan(values)
    totals = np.zeros((patients, values.shape[1]))
    counts = np.zeros_like(totals)
    np.add.at(totals, patient, np.where(defined, values, 0.0))
    np.add.at(counts, patient, defined)
    return totals, counts


def estimate(values: Floats, patient: NDArray[np.intp], weights: Floats) -> tuple[list[Estimate], Estimate]:
    """Each class, and the mean over classes, of `values` (cases, classes) with NaN for undefined.

    `patient` (cases,) is the column of `weights` (resamples, patients) that holds the case's patient.
    Per class the mean runs over all defined cases; classes without any are left out of the mean over classes.
    """
    totals, counts = patient_totals(values, patient, weights.shape[1])
    with np.errstate(invalid="ignore"):  # 0 / 0: a class without a defined value is NaN
        means = totals.sum(0) / counts.sum(0)  # (classes,)
        resampled = (weights @ totals) / (weights @ counts)  # (resamples, classes)
    present = counts.any(0)
    per_class = [
        _estimate(means[c : c + 1], resampled[:, c : c + 1], values[:, c : c + 1], counts[:, c : c + 1])
        for c in range(values.shape[1])
    ]
    return per_class, _estimate(means[present], resampled[:, present], values, counts)


def _estimate(means: Floats, resampled: Floats, values: Floats, counts: Floats) -> Estimate:
    defined = ~np.isnan(values)
    if not means.size or np.isnan(means).all():
        return Estimate(np.nan, np.nan, np.nan, np.nan, 0, values.size, 0, len(resampled))
    rows = [row[ok].mean() for row, ok in zip(values, defined) if ok.any()]
    draws = resampled.mean(1)
    draws = draws[~np.isnan(draws)]
    enough = np.count_nonzero(counts.any(1)) > 1 and draws.size
    low, high = np.percentile(draws, [2.5, 97.5]) if enough else (np.nan, np.nan)
    return Estimate(
        mean=float(means.mean()),
        sd=float(np.std(rows, ddof=1)) if len(rows) > 1 else np.nan,
        low=float(low),
        high=float(high),
        n=int(defined.sum()),
        undefined=int((~defined).sum()),
        classes=means.size,
        undefined_resamples=len(resampled) - draws.size,
    )


@dataclass(frozen=True)
class Interval:
    """A value of the whole test set with its 95 % bootstrap interval. NaN where there is none."""

    value: float
    low: float
    high: float


def interval(value: float, draws: Floats) -> Interval:
    """`value` with the percentiles of the values of its resamples (resamples,), of which undefined ones are left out.

    A value that is undefined itself has no interval, and neither has one of which no resample is defined.
    """
    defined = draws[~np.isnan(draws)]
    if np.isnan(value) or not defined.size:
        return Interval(value, np.nan, np.nan)
    low, high = np.percentile(defined, [2.5, 97.5])
    return Interval(value, float(low), float(high))
