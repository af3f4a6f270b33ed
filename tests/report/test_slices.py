from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from medkd.errors import InputError
from medkd.report.slices import Slice, best_slice, cut, radiological


def test_patient_right_is_at_the_left_and_anterior_is_up() -> None:
    plane = np.zeros((4, 3))
    plane[3, 2] = 1  # far right, far anterior in RAS+
    plane[0, 2] = 2  # far left, far anterior
    plane[3, 0] = 3  # far right, far posterior
    picture = radiological(plane)
    assert picture.shape == (3, 4)
    assert (picture[0, 0], picture[0, -1], picture[-1, 0]) == (1, 2, 3)


def test_radiological_keeps_colour_channels() -> None:
    assert radiological(np.zeros((4, 3, 3))).shape == (3, 4, 3)


@given(
    hnp.arrays(np.int8, hnp.array_shapes(min_dims=3, max_dims=3, max_side=4), elements=st.integers(-1, 2)),
    st.integers(-3, 2),
)
def test_best_slice_has_the_most_foreground(label: np.ndarray, axis: int) -> None:
    counts = [int((np.take(label, i, axis) > 0).sum()) for i in range(label.shape[axis])]
    chosen = best_slice(label, axis)
    assert counts[chosen] == max(counts)
    if not any(counts):
        assert chosen == label.shape[axis] // 2


@pytest.mark.parametrize(
    ("axis", "plane", "shape", "spacing"),
    [(0, "sagittal", (5, 6), (2, 3)), (1, "coronal", (4, 6), (1, 3)), (2, "axial", (4, 5), (1, 2))],
)
def test_cut_keeps_the_spacing_of_the_plane(axis: int, plane: str, shape: tuple, spacing: tuple) -> None:
    image = np.arange(120.0).reshape(4, 5, 6)
    truth = np.zeros((4, 5, 6), np.uint8)
    truth[3, 1, 4] = 1
    row = cut("a", image, truth, None, (1, 2, 3), axis=axis)
    assert (row.plane, row.image.shape, row.spacing) == (plane, shape, spacing)
    index = (3, 1, 4)[axis]
    assert np.array_equal(row.image, np.take(image, index, axis))
    assert row.truth is not None
    assert row.truth.sum() == 1
    assert row.note == f"{plane} slice {index + 1} of {(4, 5, 6)[axis]}"
    assert row.size == (shape[0] * spacing[0], shape[1] * spacing[1])


def test_cut_follows_the_prediction_where_the_truth_is_empty_and_an_index_over_both() -> None:
    image, empty, predicted = np.zeros((3, 3, 8)), np.zeros((3, 3, 8)), np.zeros((3, 3, 8))
    predicted[0, 0, 6] = 1
    assert cut("a", image, empty, predicted).note == "axial slice 7 of 8"
    assert cut("a", image, None, predicted).note == "axial slice 7 of 8"
    assert cut("a", image).note == "axial slice 5 of 8"
    assert cut("a", image, predicted, index=2).note == "axial slice 3 of 8"


def test_all_problems_of_a_slice_are_named_at_once() -> None:
    with pytest.raises(InputError) as error:
        Slice("p1", np.zeros((4, 4)), np.zeros((4, 5)), np.zeros((3, 4)), spacing=(0.0, 1.0))
    assert len(error.value.problems) == 3
    assert "truth has shape (4, 5)" in str(error.value)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 4)), np.zeros((0, 4)), np.zeros(4)])
def test_a_slice_is_two_dimensional_and_not_empty(image: np.ndarray) -> None:
    with pytest.raises(InputError, match="one slice is"):
        Slice("p1", image)


def test_cut_refuses_volumes_of_other_shapes() -> None:
    with pytest.raises(InputError, match="truth has shape"):
        cut("p1", np.zeros((3, 3, 3)), np.zeros((3, 3, 4)))
    with pytest.raises(InputError, match="image has shape"):
        cut("p1", np.zeros((3, 3)))
