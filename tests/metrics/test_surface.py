"""Overlap and surface metrics: hand values, agreement with MONAI and medpy, invariances."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance, compute_surface_dice
from scipy import ndimage

from medkd.errors import InputError
from medkd.metrics.overlap import dice, jaccard
from medkd.metrics.surface import SurfaceDistances, surface_distances


def square(row: int, column: int, size: int = 4, shape: tuple[int, int] = (12, 12)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[row : row + size, column : column + size] = True
    return mask


def blobs(seed: int, shape: tuple[int, ...]) -> np.ndarray:
    """Smooth random shapes, some of them touching the border of the image."""
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 2)
    return noise > np.quantile(noise, 0.7)


masks = hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=3, min_side=1, max_side=7))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    first = draw(masks)
    return first, draw(hnp.arrays(bool, first.shape))


def numbers(d: SurfaceDistances) -> np.ndarray:
    return np.array([d.hd95("max"), d.hd95("pooled"), d.assd(), d.nsd(0.0), d.nsd(1.0)])


# Two 4 x 4 squares, the second one column further: 16 voxels each, 12 shared, 12 on each surface. Of the first
# surface the 4 voxels of its left column and the 2 in the middle of its right column are not on the second one,
# and each of these 6 has it next door.
def test_squares_shifted_by_one_voxel() -> None:
    p, r = square(3, 3), square(3, 4)
    assert dice(p, r) == 24 / 32
    assert jaccard(p, r) == 12 / 20
    d = surface_distances(p, r)
    assert sorted(d.to_reference) == [0.0] * 6 + [1.0] * 6
    assert sorted(d.to_prediction) == [0.0] * 6 + [1.0] * 6
    assert d.assd() == 0.5
    assert d.hd95("max") == d.hd95("pooled") == 1.0
    assert d.nsd(0.0) == 0.5
    assert d.nsd(1.0) == 1.0


def test_anisotropic_spacing_goes_with_its_axis() -> None:
    point, down, right = square(3, 3, 1), square(5, 3, 1), square(3, 5, 1)
    assert surface_distances(point, down, (5.0, 1.5)).hd95() == 10.0
    assert surface_distances(point, right, (5.0, 1.5)).hd95() == 3.0


def test_the_two_hd95_definitions_differ_when_the_surfaces_differ_in_size() -> None:
    # 1 voxel against a row of 21 that starts on it: directed sets {0} and {0, 1, ..., 20}
    p, r = np.zeros((3, 30), bool), np.zeros((3, 30), bool)
    p[1, 2], r[1, 2:23] = True, True
    d = surface_distances(p, r)
    assert d.hd95("max") == pytest.approx(19.0)  # position 0.95 * 20 of 0..20
    assert d.hd95("pooled") == pytest.approx(18.95)  # position 0.95 * 21 = 19.95 of 0, 0, 1, ..., 20
    assert d.assd() == pytest.approx(210 / 22)  # the mean of the two directed means would be 5


def test_surface_is_face_connected_and_the_image_border_is_outside() -> None:
    full = np.ones((4, 4), bool)
    assert surface_distances(full, full).to_reference.size == 12
    notched = np.ones((5, 5), bool)
    notched[0, 0] = False  # (1, 1) has this voxel as a diagonal neighbour only: not surface
    assert surface_distances(notched, notched).to_reference.size == 15


def test_tolerance_includes_its_own_value_despite_rounding() -> None:
    p, r = square(2, 2, 1), square(2, 5, 1)
    assert 3 * 1.1 > 3.3  # the trap
    assert surface_distances(p, r, (1.1, 1.1)).nsd(3.3) == 1.0
    assert surface_distances(p, r, (1.1, 1.1)).nsd(3.29) == 0.0


def test_empty_masks() -> None:
    nothing, something = np.zeros((5, 5), bool), square(1, 1, 2, (5, 5))
    assert math.isnan(dice(nothing, nothing))
    assert math.isnan(jaccard(nothing, nothing))
    assert np.isnan(numbers(surface_distances(nothing, nothing))).all()
    for pair in ((nothing, something), (something, nothing)):
        assert dice(*pair) == jaccard(*pair) == 0.0
        *distances, nsd0, nsd1 = numbers(surface_distances(*pair))
        assert np.isnan(distances).all()
        assert nsd0 == nsd1 == 0.0


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    ("shape", "spacing"),
    [((40, 36), None), ((40, 36), (0.7, 2.0)), ((18, 20, 12), None), ((18, 20, 12), (1.25, 1.25, 8.0))],
)
def test_equals_monai(seed: int, shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> None:
    p, r = blobs(seed, shape), blobs(seed + 100, shape)
    d = surface_distances(p, r, spacing)
    a, b = (torch.from_numpy(m)[None, None].float() for m in (p, r))
    kind = {"include_background": True, "spacing": spacing}
    assert d.hd95("max") == pytest.approx(compute_hausdorff_distance(a, b, percentile=95, **kind).item(), rel=1e-5)
    assert d.assd() == pytest.approx(compute_average_surface_distance(a, b, symmetric=True, **kind).item(), rel=1e-5)
    assert d.nsd(2.5) == pytest.approx(compute_surface_dice(a, b, [2.5], **kind).item(), rel=1e-5)
    # with use_subvoxels=True MONAI weights the surface by its area (DeepMind's definition), as we say we do not
    assert d.nsd(2.5) != pytest.approx(compute_surface_dice(a, b, [2.5], use_subvoxels=True, **kind).item(), rel=1e-5)


@pytest.mark.parametrize("spacing", [None, (0.7, 2.0)])
def test_pooled_definitions_equal_medpy(spacing: tuple[float, float] | None) -> None:
    medpy = pytest.importorskip("medpy.metric.binary", reason="medpy is not installed (pip install medpy)")
    p, r = blobs(0, (40, 36)), blobs(100, (40, 36))
    d = surface_distances(p, r, spacing)
    assert d.hd95("pooled") == pytest.approx(medpy.hd95(p, r, voxelspacing=spacing), rel=1e-12)
    assert d.to_reference.mean() == pytest.approx(medpy.asd(p, r, voxelspacing=spacing), rel=1e-12)


@given(pairs())
@settings(max_examples=60)
def test_bounds_and_symmetry(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, r = pair
    there, back = surface_distances(p, r), surface_distances(r, p)
    np.testing.assert_allclose(numbers(there), numbers(back), rtol=1e-12)
    np.testing.assert_equal([dice(p, r), jaccard(p, r)], [dice(r, p), jaccard(r, p)])
    if there.defined:
        hausdorff = max(there.to_reference.max(), there.to_prediction.max())
        assert max(there.hd95("pooled"), there.hd95("max"), there.assd()) <= hausdorff + 1e-9
        assert 0 <= there.nsd(0.5) <= there.nsd(1.5) <= 1
    if p.any() or r.any():
        assert 0 <= jaccard(p, r) <= dice(p, r) <= 1
        assert jaccard(p, r) == pytest.approx(dice(p, r) / (2 - dice(p, r)))
    if p.any():
        same = surface_distances(p, p)
        assert (same.hd95(), same.assd(), same.nsd(0.0)) == (0.0, 0.0, 1.0)


@given(pairs(), st.lists(st.integers(0, 4), min_size=6, max_size=6), st.randoms())
@settings(max_examples=60)
def test_padding_flips_and_axis_order_change_nothing(
    pair: tuple[np.ndarray, np.ndarray], pad: list[int], random: object
) -> None:
    p, r = pair
    spacing = (1.0, 2.5, 0.8)[: p.ndim]
    expected = numbers(surface_distances(p, r, spacing))
    width = [(pad[2 * axis], pad[2 * axis + 1]) for axis in range(p.ndim)]
    padded = surface_distances(np.pad(p, width), np.pad(r, width), spacing)
    np.testing.assert_array_equal(numbers(padded), expected)  # the crop to the joint box is exact
    flipped = surface_distances(np.flip(p), np.flip(r), spacing)
    np.testing.assert_allclose(numbers(flipped), expected, rtol=1e-12)
    turned = surface_distances(p.T, r.T, spacing[::-1])
    np.testing.assert_allclose(numbers(turned), expected, rtol=1e-12)


def whole_image_distances(p: np.ndarray, r: np.ndarray) -> list[float]:
    """The definition, word for word: no crop, no distance transform, every pair of surface voxels."""

    def surface(mask: np.ndarray) -> list[tuple[int, ...]]:
        padded = np.pad(mask, 1)
        steps = [s * np.eye(mask.ndim, dtype=int)[a] for a in range(mask.ndim) for s in (-1, 1)]
        return [tuple(v) for v in np.argwhere(padded) if not all(padded[tuple(v + s)] for s in steps)]

    target = surface(r)
    return sorted(min(math.dist(v, w) for w in target) for v in surface(p))


@given(pairs())
@settings(max_examples=40)
def test_equals_the_brute_force_definition(pair: tuple[np.ndarray, np.ndarray]) -> None:
    p, r = pair
    if p.any() and r.any():
        np.testing.assert_allclose(sorted(surface_distances(p, r).to_reference), whole_image_distances(p, r))


@given(pairs(), st.floats(0.1, 10))
@settings(max_examples=40)
def test_distances_scale_with_the_spacing(pair: tuple[np.ndarray, np.ndarray], factor: float) -> None:
    p, r = pair
    spacing = np.array([1.0, 2.5, 0.8][: p.ndim])
    one, scaled = surface_distances(p, r, spacing), surface_distances(p, r, spacing * factor)
    np.testing.assert_allclose(numbers(scaled)[:3], numbers(one)[:3] * factor, rtol=1e-9)
    np.testing.assert_array_equal(scaled.nsd(2.5 * factor), one.nsd(2.5))


def test_wrong_input_is_named() -> None:
    mask = square(1, 1)
    with pytest.raises(InputError, match=r"shape \(12, 12\), the reference \(1, 12\)"):
        dice(mask, mask[:1])
    with pytest.raises(InputError, match="int64"):
        surface_distances(mask, mask.astype(np.int64))
    with pytest.raises(InputError) as caught:
        surface_distances(mask, mask, (1.0, 0.0, 1.0))
    assert len(caught.value.problems) == 2
    with pytest.raises(InputError, match="max, pooled"):
        surface_distances(mask, mask).hd95("mean")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="-1"):
        surface_distances(mask, mask).nsd(-1)
