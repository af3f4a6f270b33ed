"""A panel a metric: drawn whole, also where arms lack a metric."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from medkd.errors import InputError
from medkd.report.arms import arms_panels


def test_arms_without_a_metric_leave_the_layout_whole() -> None:
    """An empty, unclipped line has no place: matplotlib then gives up the layout with a warning, and text is cut."""
    metrics = {f"metric {i}": {"first arm": [0.1, 0.2], **({"second": [0.3]} if i else {})} for i in range(4)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        picture = imread(io.BytesIO(arms_panels(metrics)))[..., :3]
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    assert (border == 1).all()  # nothing runs into the edge
    assert arms_panels(metrics) == arms_panels(metrics)


def test_values_that_are_not_finite_are_left_out() -> None:
    assert arms_panels({"m": {"a": [1.0, float("nan")]}}) == arms_panels({"m": {"a": [1.0]}})
    with pytest.raises(InputError, match="no value of m to draw"):
        arms_panels({"m": {"a": [float("nan")]}})
