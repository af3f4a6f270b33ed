from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.imaging.geometry import differences, problems_of, to_canonical, voxel_sizes


@dataclass
class Grid:
    affine: np.ndarray
    shape: tuple[int, ...]


@st.composite
def affines(draw: st.DrawFn) -> np.ndarray:
    """Any axis order and direction, tilts up to 40 degrees, shears and anisotropic spacings."""
    order = draw(st.permutations([0, 1, 2]))
    signs = draw(st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3))
    spacing = draw(st.tuples(*[st.floats(0.3, 9)] * 3))
    tilts = draw(st.tuples(*[st.floats(-0.4, 0.4)] * 3))
    shear = draw(st.floats(-0.2, 0.2))
    matrix = np.eye(3)[:, order] * signs
    for axis, angle in enumerate(tilts):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    matrix[:, 0] += shear * matrix[:, 1]
    affine = np.eye(4)
    affine[:3, :3] = matrix * spacing
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


@settings(max_examples=80)
@given(affines())
def test_canonical_and_back_is_exact_and_moves_no_voxel(affine: np.ndarray) -> None:
    array = np.arange(4 * 5 * 6).reshape(4, 5, 6)
    turned, turned_affine, reorientation = to_canonical(array, affine)
    assert np.array_equal(reorientation.undo(turned), array)
    for value in (0, 7, 63, 119):
        here = affine @ [*np.argwhere(array == value)[0], 1]
        there = turned_affine @ [*np.argwhere(turned == value)[0], 1]
        assert np.allclose(here, there)
    # each axis of the turned grid points most nearly along its own world axis, in the positive direction
    again, _, _ = to_canonical(turned, turned_affine)
    assert np.array_equal(again, turned)
    assert np.allclose(sorted(voxel_sizes(affine)), sorted(voxel_sizes(turned_affine)))


def test_undo_refuses_an_array_of_another_scan() -> None:
    _, _, reorientation = to_canonical(np.zeros((4, 5, 6)), np.diag([-1.0, 1, 1, 1]))
    with pytest.raises(ValueError, match="does not come from"):
        reorientation.undo(np.zeros((5, 5, 6)))


def test_differences_in_words() -> None:
    base = np.diag([1.5, 1.5, 8.0, 1.0])
    same = base + 1e-5
    same[3] = base[3]
    assert differences(Grid(base, (10, 10, 4)), Grid(same, (10, 10, 4))) == []
    assert "shape" in differences(Grid(base, (10, 10, 4)), Grid(base, (10, 10, 5)))[0]
    thicker = np.diag([1.5, 1.5, 8.1, 1.0])
    assert "voxel size (1.5, 1.5, 8) against (1.5, 1.5, 8.1) mm" in differences(
        Grid(base, (9, 9, 9)), Grid(thicker, (9, 9, 9))
    )
    moved = base.copy()
    moved[0, 3] = 0.4
    words = differences(Grid(base, (9, 9, 9)), Grid(moved, (9, 9, 9)))
    assert words[0] == "voxels lie up to 0.4 mm apart"
    turned = base.copy()
    turned[:3, :3] = [[0, 1.5, 0], [1.5, 0, 0], [0, 0, 8]]
    assert differences(Grid(base, (9, 9, 9)), Grid(turned, (9, 9, 9)))


def test_affines_that_cannot_be_trusted() -> None:
    assert problems_of(np.eye(4)) == []
    assert "singular" in problems_of(np.diag([1.0, 0, 1, 1]))[0]
    parallel = np.eye(4)
    parallel[:3, 1] = parallel[:3, 0]
    assert "singular" in problems_of(parallel)[0]
    assert "finite" in problems_of(np.diag([1, np.nan, 1, 1]))[0]
