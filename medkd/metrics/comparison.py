"""Paired comparison of two runs on the same cases: is the second one different, patient by patient?

Pairs in which either run is undefined (a structure it missed has no distance) are left out of the difference
and counted on the side that caused it: a run that misses the hard cases would otherwise look better for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medkd.errors import raise_all
from medkd.metrics.bootstrap import Estimate, Floats, draw_weights, estimate, patient_totals
from medkd.metrics.cases import CaseScores, check_cases, measured, names, patient_index, values
from medkd.metrics.scores import METRICS


@dataclass(frozen=True)
class Difference:
    """`difference` is second - first over the pairs defined in both; its n, undefined, sd are of patients."""

    first: float  # mean of the first run over these pairs
    second: float
    difference: Estimate
    undefined_first: int  # pairs that only the first run leaves undefined
    undefined_second: int
    undefined_both: int


@dataclass(frozen=True)
class Comparison:
    """Metric -> Difference, for each class and over classes. Of hd95 and assd, lower is better."""

    cases: int
    patients: int
    resamples: int
    seed: int
    columns: dict[str, str]
    classes: dict[str, dict[str, Difference]]
    mean_over_classes: dict[str, Difference]


def paired_difference(
    first: Sequence[CaseScores], second: Sequence[CaseScores], *, seed: int = 0, resamples: int = 2000
) -> Comparison:
    """Second minus first, per class and averaged over classes, with 95 % bootstrap intervals over patients.

    The differences of a patient's cases are averaged first, then patients: each patient weighs the same. With
    equally many defined cases a patient this is the difference of the two summaries.
    Raises InputError unless both runs scored the same cases, of the same patients, against references of the
    same size.
    """
    check_cases(first)
    check_cases(second)
    _check_pairs(first, second)
    by_id = {case.case: case for case in second}
    second = [by_id[case.case] for case in first]
    patient = patient_index(first)
    weights = draw_weights(int(patient.max()) + 1, resamples, seed)
    each = np.arange(weights.shape[1])  # after averaging, every patient is one row
    class_names = names(first[0])
    classes: dict[str, dict[str, Difference]] = {name: {} for name in class_names}
    overall: dict[str, Difference] = {}
    for metric in METRICS:
        a, b = values(first, metric), values(second, metric)
        pairs = np.where(np.isnan(a) | np.isnan(b), np.nan, [a, b, b - a])  # (3, cases, classes)
        of_patients = (_patient_means(x, patient, len(each)) for x in pairs)
        (a_each, a_all), (b_each, b_all), (d_each, d_all) = (estimate(x, each, weights) for x in of_patients)
        for c, name in enumerate(class_names):
            counts = _undefined(a[:, c], b[:, c])
            classes[name][metric] = Difference(a_each[c].mean, b_each[c].mean, d_each[c], *counts)
        overall[metric] = Difference(a_all.mean, b_all.mean, d_all, *_undefined(a, b))
    columns = first[0].rows[0].columns
    return Comparison(len(first), weights.shape[1], resamples, seed, columns, classes, overall)


def _check_pairs(first: Sequence[CaseScores], second: Sequence[CaseScores]) -> None:
    a, b = ({case.case: case for case in run} for run in (first, second))
    fix = "score both runs on one dataset folder"
    problems = [f"case {i} is scored in the first run only; {fix}" for i in a if i not in b]
    problems += [f"case {i} is scored in the second run only; {fix}" for i in b if i not in a]
    if measured(first[0]) != measured(second[0]):
        problems.append(f"the first run holds {measured(first[0])}, the second {measured(second[0])}; score alike")
    for i in (i for i in a if i in b):
        if a[i].patient != b[i].patient:
            problems.append(f"case {i} belongs to different patients in the two runs; {fix}")
        if [r.reference_voxels for r in a[i].rows] != [r.reference_voxels for r in b[i].rows]:
            problems.append(f"case {i} was scored against two different references; {fix}, on one grid")
    raise_all(problems)


def _patient_means(x: Floats, patient: NDArray[np.intp], patients: int) -> Floats:
    """(cases, classes) -> (patients, classes): means over each patient's defined cases, NaN without any."""
    totals, counts = patient_totals(x, patient, patients)
    return np.divide(totals, counts, out=np.full_like(totals, np.nan), where=counts > 0)


def _undefined(a: Floats, b: Floats) -> tuple[int, int, int]:
    x, y = np.isnan(a), np.isnan(b)
    return int((x & ~y).sum()), int((y & ~x).sum()), int((x & y).sum())
