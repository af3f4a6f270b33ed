"""The scores of many cases, each with the patient it came from: what summaries and tables are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medkd.errors import InputError, raise_all
from medkd.metrics.scores import ClassScore


@dataclass(frozen=True)
class CaseScores:
    """One case: the rows of `segmentation_scores`. `patient` groups cases and is never written to a file."""

    case: str
    patient: str
    rows: Sequence[ClassScore]


def check_cases(cases: Sequence[CaseScores]) -> None:
    """Raise InputError unless ids are unique and every case has the same classes, units and definitions."""
    if not cases or not cases[0].rows:
        raise InputError("no scores: at least one case with one foreground class is needed")
    seen = Counter(case.case for case in cases)
    problems = [f"case {i} is scored {n} times; keep one" for i, n in seen.items() if n > 1]
    first = cases[0]
    problems += [
        f"case {case.case} holds {measured(case)}, case {first.case} {measured(first)}; other classes, units "
        "or definitions cannot be averaged: score all alike (spacing=None for all if one has no spacing)"
        for case in cases[1:]
        if measured(case) != measured(first)
    ]
    raise_all(problems)


def measured(case: CaseScores) -> str:
    """Its classes and columns in words, equal for cases that may be averaged."""
    return "; ".join(f"{row.name}: {', '.join(row.columns.values())}" for row in case.rows)


def names(case: CaseScores) -> tuple[str, ...]:
    """The class names of a case, in label order."""
    return tuple(row.name for row in case.rows)


def values(cases: Sequence[CaseScores], metric: str) -> NDArray[np.float64]:
    """(cases, classes) of one metric; NaN where it is undefined."""
    return np.array([[getattr(row, metric) for row in case.rows] for case in cases], dtype=np.float64)


def patient_index(cases: Sequence[CaseScores]) -> NDArray[np.intp]:
    """(cases,) number of each case's patient, 0 to patients - 1 in sorted order."""
    return np.unique([case.patient for case in cases], return_inverse=True)[1]
