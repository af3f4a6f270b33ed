from __future__ import annotations

from dataclasses import dataclass

import nibabel as nib
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.imaging.geometry import TOLERANCE, differences, displacement, to_canonical


@dataclass
class Grid:
    affine: np.ndarray
    shape: tuple[int, ...]


@settings(max_examples=48)
@given(
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.tuples(*[st.floats(0.2, 10)] * 3),
)
def test_permutations_and_flips_agree_with_nibabel(
    order: list[int], signs: tuple[float, ...], shape: tuple[int, int, int], spacing: tuple[float, ...]
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = np.eye(3)[:, order] * signs * spacing
    affine[:3, 3] = (-10.5, 3.25, 100)
    array = np.arange(np.prod(shape)).reshape(shape)
    turned, turned_affine, reorientation = to_canonical(array, affine)
    expected = nib.as_closest_canonical(nib.Nifti1Image(array.astype(np.int32), affine))
    assert np.array_equal(turned, expected.dataobj)
    assert np.allclose(turned_affine, expected.affine)
    assert nib.aff2axcodes(turned_affine) == ("R", "A", "S")
    back = reorientation.undo(turned.copy())
    assert np.array_equal(back, array)
    assert back.flags.c_contiguous


def test_the_tolerance_is_a_share_of_the_smallest_voxel_edge() -> None:
    base = np.diag([0.5, 2.0, 8.0, 1.0])
    for share, same in ((0.9, True), (1.1, False)):
        moved = base.copy()
        moved[1, 3] = share * TOLERANCE * 0.5
        assert (differences(Grid(base, (9, 9, 9)), Grid(moved, (9, 9, 9))) == []) == same


def test_a_tiny_turn_is_seen_at_the_far_corner() -> None:
    base, turned = np.eye(4), np.eye(4)
    turned[0, 1] = 1e-4
    assert np.isclose(displacement(base, turned, (5, 101, 5)), 0.01)
    assert differences(Grid(base, (5, 5, 5)), Grid(turned, (5, 5, 5))) == []
    assert differences(Grid(base, (5, 101, 5)), Grid(turned, (5, 101, 5)))


def test_a_flipped_grid_names_its_axes_and_nan_is_never_equal() -> None:
    flipped = np.diag([-1.0, 1, 1, 1])
    assert "axes RAS against LAS" in differences(Grid(np.eye(4), (4, 4, 4)), Grid(flipped, (4, 4, 4)))
    broken = np.eye(4)
    broken[0, 3] = np.nan
    assert differences(Grid(np.eye(4), (4, 4, 4)), Grid(broken, (4, 4, 4)))
