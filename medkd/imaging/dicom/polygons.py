"""Closed polygons on a pixel grid, by the even-odd rule."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

DIGITS = 4
"""Corners are rounded to this many digits of a pixel: noise of the last bits decides no pixel, and edges that run to
and fro over each other (keyholes) cancel."""


def fill(polygons: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """(W, H) bool: the pixels whose centre lies inside an odd number of polygons.

    polygons: corners (n, 2) in pixels, (0, 0) is the centre of the first pixel; the last corner joins the first; what
    lies outside the grid is cut off. A centre exactly on an edge belongs to the polygon if the inside lies towards
    larger indices, first along axis 0, then along axis 1: neighbours that share an edge share no pixel, and a
    rectangle between pixel centres has as many pixels as its area.

    >>> fill([np.array([(1, 0), (3, 0), (3, 2), (1, 2)])], (5, 3)).astype(int)
    array([[0, 0, 0],
           [1, 1, 0],
           [1, 1, 0],
           [0, 0, 0],
           [0, 0, 0]])
    """
    width, height = shape
    starts = [np.round(np.asarray(polygon, np.float64), DIGITS) for polygon in polygons]
    if not starts:
        return np.zeros(shape, bool)
    a = np.concatenate(starts)
    b = np.concatenate([np.roll(corners, -1, 0) for corners in starts])
    upward = a[:, 1] <= b[:, 1]
    low, high = np.where(upward[:, None], a, b), np.where(upward[:, None], b, a)
    first = np.clip(np.ceil(low[:, 1]), 0, height).astype(int)  # rows low <= row < high
    last = np.clip(np.ceil(high[:, 1]), 0, height).astype(int)
    edge = np.repeat(np.arange(len(low)), last - first)
    row = np.arange(len(edge)) - np.repeat(np.cumsum(last - first) - (last - first), last - first) + first[edge]
    rise = high[edge] - low[edge]  # never flat: flat edges cross no row
    crossing = np.round(low[edge, 0] + (row - low[edge, 1]) * rise[:, 0] / rise[:, 1], 2 * DIGITS)
    column = np.clip(np.ceil(crossing), 0, width).astype(int)
    crossings = np.zeros((width + 1, height), np.int64)
    np.add.at(crossings, (column, row), 1)
    return np.cumsum(crossings, 0)[:width] % 2 == 1
