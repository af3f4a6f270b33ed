"""Scored cases with chosen values, for the tests of summaries, comparisons and tables."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest

from medkd.metrics.cases import CaseScores
from medkd.metrics.scores import ClassScore


def _row(name: str, dice: float, hd95: float = 1.0, **fields: Any) -> ClassScore:
    values: dict[str, Any] = {
        "jaccard": dice / (2 - dice),
        "assd": hd95 / 2,
        "nsd": dice,
        "unit": "mm",
        "hd95_definition": "max",
        "nsd_tolerance": 1.0,
        "prediction_voxels": 0 if math.isnan(hd95) else 10,
        "reference_voxels": 10,
        "voxel_ml": 0.5,
    }
    return ClassScore(name=name, dice=dice, hd95=hd95, **{**values, **fields})


def _case(name: str, patient: str, *dices: float, **fields: Any) -> CaseScores:
    """Classes "a", "b", ... with these Dice values: 0 was missed, NaN is absent from both masks."""
    rows = []
    for letter, dice in zip("abcdef", dices):
        empty = {"hd95": math.nan} if dice == 0 or math.isnan(dice) else {}
        absent = {"reference_voxels": 0} if math.isnan(dice) else {}
        rows.append(_row(letter, dice, **{**fields, **empty, **absent}))
    return CaseScores(name, patient, rows)


@pytest.fixture
def case() -> Callable[..., CaseScores]:
    return _case
