from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.data.options import Intensity, Preprocess
from medkd.data.preprocess import normalise, prepare_label, prepare_scan, restore, target_shape, thickest_axis
from medkd.imaging.nifti import Scan

SHAPE = (12, 10, 5)


def affine(permutation: tuple[int, ...], flips: tuple[int, ...], spacing: tuple[float, ...]) -> np.ndarray:
    """A voxel-to-world matrix whose array axis i runs along world axis permutation[i]."""
    matrix = np.eye(4)
    matrix[:3, :3] = 0
    for axis, world in enumerate(permutation):
        matrix[world, axis] = flips[axis] * spacing[axis]
    tilt = 0.1
    rotation = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    matrix[:3, :3] = rotation @ matrix[:3, :3]
    matrix[:3, 3] = (-20, 7, 31)
    return matrix


def scan(array: np.ndarray, matrix: np.ndarray) -> Scan:
    return Scan(array, matrix, tuple(np.linalg.norm(matrix[:3, :3], axis=0)))


def logits_of(label: torch.Tensor, classes: int) -> torch.Tensor:
    return torch.nn.functional.one_hot(label.long(), classes).movedim(-1, 1).float()


@settings(max_examples=30)
@given(
    st.permutations([0, 1, 2]), st.tuples(*[st.sampled_from([-1, 1])] * 3), st.sampled_from([2, 3]),
    st.integers(0, 2),
)  # fmt: skip
def test_a_label_survives_the_way_there_and_back(
    permutation: list[int], flips: tuple[int, ...], dims: int, thick: int
) -> None:
    """Without resampling, a perfect prediction is restored voxel for voxel, whatever the orientation and slice axis."""
    spacing = tuple(7.0 if axis == thick else 1.5 for axis in range(3))
    truth = np.random.default_rng(1).integers(0, 3, SHAPE).astype(np.uint8)
    matrix = affine(tuple(permutation), flips, spacing)
    options = Preprocess(dims=dims, patch=(8,) * dims)
    _, plan = prepare_scan([scan(truth.astype(np.int16), matrix)], options)
    label = prepare_label(scan(truth, matrix), options)
    assert np.array_equal(restore(logits_of(label, 3), plan), truth)


def test_image_and_label_stay_on_one_grid() -> None:
    truth = np.zeros((30, 24, 4), np.uint8)
    truth[6:14, 3:20, 1:3] = 1
    matrix = affine((1, 0, 2), (-1, 1, -1), (1.5, 1.0, 8.0))
    options = Preprocess(dims=2, size=(12, 15), patch=(12, 15), intensity=Intensity(kind="minmax"))
    image, plan = prepare_scan([scan(truth.astype(np.float32) * 100, matrix)], options)
    label = prepare_label(scan(truth, matrix), options)
    assert image.shape == (4, 1, 12, 15)
    disagreement = ((image[:, 0] > 0.5) != (label > 0)).float().mean()
    assert disagreement < 0.08  # only where the resampled edge lies between pixels
    back = restore(logits_of(label, 2), plan)
    assert back.shape == truth.shape
    assert 2 * ((back == 1) & (truth == 1)).sum() / ((back == 1).sum() + (truth == 1).sum()) > 0.9


def test_slices_lie_along_the_thickest_axis() -> None:
    assert thickest_axis(np.diag([8.0, 1.0, 1.0, 1.0])) == 0
    assert thickest_axis(np.diag([1.0, 1.0, 1.0, 1.0])) == 2
    image, _ = prepare_scan([scan(np.zeros((4, 9, 7)), np.diag([8.0, 1.0, 1.0, 1.0]))], Preprocess(patch=(9, 7)))
    assert image.shape == (4, 1, 9, 7)


def test_spacing_in_mm() -> None:
    assert target_shape((100, 60), np.array([1.5, 1.0]), Preprocess(spacing=(1.0, 2.0))) == (150, 30)


@pytest.mark.parametrize("kind", ["minmax", "percentile", "zscore", "window"])
def test_intensities(kind: str) -> None:
    values = np.random.default_rng(0).normal(200, 50, (20, 20, 6))
    values[0, 0, 0] = 1e5  # an outlier
    done = normalise(values, Intensity(kind=kind, low=100, high=300))
    assert done.dtype == np.float32
    if kind == "zscore":
        assert abs(done.mean()) < 1e-3
        assert abs(done.std() - 1) < 1e-3
    else:
        assert done.min() == 0
        assert abs(done.max() - 1) < 1e-6
    if kind == "percentile":
        assert done.std() > 0.1  # the outlier does not darken the rest


def test_a_constant_volume_becomes_zeros() -> None:
    for kind in ("minmax", "percentile", "zscore"):
        assert not normalise(np.full((3, 3, 3), 7.0), Intensity(kind=kind)).any()


def test_channels_are_scaled_one_by_one() -> None:
    one, two = np.random.default_rng(0).random((2, *SHAPE))
    image, _ = prepare_scan([scan(one, np.eye(4)), scan(1000 * two + 5, np.eye(4))], Preprocess(patch=(12, 10)))
    assert image.shape == (5, 2, 12, 10)
    assert image[:, 0].max() == image[:, 1].max() == 1
