"""A line an arm, a column a case, the hardest first; what is not known stays white."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from matplotlib.image import imread

from medkd.errors import InputError
from medkd.report.score_grid import score_grid

NAN = float("nan")


def colours(picture: bytes) -> np.ndarray:
    """The colours (rows, columns, 3) of a grid of 2 arms and 3 cases: the one box of saturated colour at the left."""
    pixels = imread(io.BytesIO(picture))[..., :3]
    coloured = (np.ptp(pixels, -1) > 0.1)[:, : pixels.shape[1] * 8 // 10]  # the colour bar is right of it
    rows, columns = (np.flatnonzero(coloured.any(axis)) for axis in (1, 0))
    box = pixels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    height, width = box.shape[:2]
    return np.array([[box[height * (2 * r + 1) // 4, width * (2 * c + 1) // 6] for c in range(3)] for r in range(2)])


def test_cases_are_sorted_by_their_mean_over_the_arms() -> None:
    picture = colours(score_grid({"a": {"x": 0.9, "y": 0.1, "z": 0.5}, "b": {"z": 0.5, "x": 0.9, "y": 0.1}}))
    assert np.allclose(picture[0], picture[1])  # by name, not by place
    brightness = picture[0].sum(-1)
    assert (np.diff(brightness) > 0.1).all()  # y, z, x


def test_an_unknown_score_stays_white_and_sorts_nothing() -> None:
    picture = colours(score_grid({"a": {"x": 0.9, "y": 0.1, "z": 0.5}, "b": {"x": NAN, "y": 0.1}}))
    assert (picture[1, 1:] == 1).all()
    assert not (picture[0] == 1).all(-1).any()


def test_a_case_nobody_scored_is_left_out_and_nothing_runs_into_the_edge() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with_it = score_grid({"a": {"x": 0.9, "y": NAN}, "b": {"x": 0.2}, "nothing": {"y": NAN}})
    assert with_it == score_grid({"a": {"x": 0.9}, "b": {"x": 0.2}, "nothing": {}})
    picture = imread(io.BytesIO(with_it))[..., :3]
    assert (np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]]) == 1).all()


@pytest.mark.parametrize("scores", [{}, {"a": {}}, {"a": {"x": NAN}}])
def test_without_a_score_there_is_nothing_to_draw(scores: dict[str, dict[str, float]]) -> None:
    with pytest.raises(InputError, match="no test Dice to draw"):
        score_grid(scores)
