"""What a run scored over a test set: per class, and over classes.

Per class: the mean over all cases (volumes) in which the metric is defined. Over classes: the mean of these
class means, the average that the ACDC literature prints; not the mean over cases of per-case means, which
differs as soon as a value is undefined. Intervals resample patients (bootstrap.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medkd.metrics.bootstrap import Estimate, draw_weights, estimate
from medkd.metrics.cases import CaseScores, check_cases, names, patient_index, values
from medkd.metrics.scores import METRICS, ClassScore


@dataclass(frozen=True)
class Group:
    """One class, or all together: `metrics` by name ("dice", ...) and how many masks were empty, by kind."""

    metrics: dict[str, Estimate]
    missed: int  # prediction empty, reference not
    false_alarms: int  # reference empty, prediction not
    both_empty: int


@dataclass(frozen=True)
class Summary:
    """`columns` gives each metric its full name with definition and unit (hd95 -> hd95_max_mm)."""

    cases: int
    patients: int
    resamples: int
    seed: int
    columns: dict[str, str]
    classes: dict[str, Group]
    mean_over_classes: Group


def summarise(cases: Sequence[CaseScores], *, seed: int = 0, resamples: int = 2000) -> Summary:
    """Means, spread, counts and 95 % intervals of the scores of a test set.

    Raises InputError if a case comes twice or if cases differ in classes, unit or definitions.
    """
    check_cases(cases)
    patient = patient_index(cases)
    weights = draw_weights(int(patient.max()) + 1, resamples, seed)
    estimates = {metric: estimate(values(cases, metric), patient, weights) for metric in METRICS}
    classes = {
        name: _group({m: estimates[m][0][c] for m in METRICS}, [case.rows[c] for case in cases])
        for c, name in enumerate(names(cases[0]))
    }
    overall = _group({m: estimates[m][1] for m in METRICS}, [row for case in cases for row in case.rows])
    columns = cases[0].rows[0].columns
    return Summary(len(cases), weights.shape[1], resamples, seed, columns, classes, overall)


def _group(metrics: dict[str, Estimate], rows: list[ClassScore]) -> Group:
    return Group(
        metrics,
        missed=sum(row.empty_prediction and not row.empty_reference for row in rows),
        false_alarms=sum(row.empty_reference and not row.empty_prediction for row in rows),
        both_empty=sum(row.empty_prediction and row.empty_reference for row in rows),
    )
