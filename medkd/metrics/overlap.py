"""Dice and Jaccard of two masks. Two empty masks have no overlap to measure: NaN, never a perfect score."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medkd.errors import raise_all

Mask = NDArray[np.bool_]


def grid_problems(prediction: NDArray[Any], reference: NDArray[Any]) -> list[str]:
    """What is wrong with two arrays meant to lie on one grid (NumPy would broadcast some silently)."""
    if prediction.shape == reference.shape:
        return []
    return [
        f"the prediction has shape {prediction.shape}, the reference {reference.shape}; both must lie "
        "on one grid: resample the prediction to the reference"
    ]


def check_masks(prediction: Mask, reference: Mask) -> None:
    """Raise InputError unless both are boolean arrays of one shape."""
    problems = [
        f"the {name} mask has dtype {mask.dtype}; a boolean array is needed, e.g. labels == 1"
        for name, mask in (("prediction", prediction), ("reference", reference))
        if mask.dtype != np.bool_
    ]
    raise_all(problems + grid_problems(prediction, reference))


def dice(prediction: Mask, reference: Mask) -> float:
    """2 |P and R| / (|P| + |R|) in [0, 1]; NaN if both are empty. Any shape, the same for both.

    >>> dice(np.array([True, True, False]), np.array([False, True, True]))
    0.5
    """
    check_masks(prediction, reference)
    total = np.count_nonzero(prediction) + np.count_nonzero(reference)
    return float(2 * np.count_nonzero(prediction & reference) / total) if total else math.nan


def jaccard(prediction: Mask, reference: Mask) -> float:
    """|P and R| / |P or R| in [0, 1]; NaN if both are empty. Equals dice / (2 - dice)."""
    check_masks(prediction, reference)
    union = np.count_nonzero(prediction | reference)
    return float(np.count_nonzero(prediction & reference) / union) if union else math.nan
