"""The letters at the edges of a picture against the way it is turned."""

from __future__ import annotations

import numpy as np
import pytest

from medkd.report.panels import EDGES
from medkd.report.slices import PLANES, radiological


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_letters_say_where_the_picture_points(axis: int) -> None:
    """Along each picture axis the index of the volume grows towards R, A or S: where it is largest, that letter is."""
    towards, away = "RAS", "LPI"
    x, y = (a for a in range(3) if a != axis)
    volume = np.indices((4, 5, 6))
    left, right, top, bottom = EDGES[PLANES[axis]]
    across = radiological(np.take(volume[x], 0, axis))
    assert (across[:, 0] > across[:, -1]).all() == (left == towards[x])
    assert right == away[x] if left == towards[x] else right == towards[x]
    upwards = radiological(np.take(volume[y], 0, axis))
    assert (upwards[0] > upwards[-1]).all() == (top == towards[y])
    assert bottom == away[y] if top == towards[y] else bottom == towards[y]
