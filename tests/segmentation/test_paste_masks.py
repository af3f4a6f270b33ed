"""Paste masks and the paste (card bcp.md 6, items 1 to 3)."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medkd.engine.randomness import generator
from medkd.segmentation.mixing import PasteMask, paste

SHAPES = st.one_of(st.tuples(*[st.integers(3, 24)] * 2), st.tuples(*[st.integers(3, 12)] * 3))


def bounding_box(inside: torch.Tensor) -> list[tuple[int, int]]:
    at = inside.nonzero()
    return [(int(a.min()), int(a.max()) + 1) for a in at.T]


@pytest.mark.parametrize(
    ("shape", "pasted"), [((256, 256), 28_900), ((112, 112, 80), 290_228), ((96, 96, 96), 262_144)]
)
def test_box_has_the_published_size(shape, pasted):
    host = PasteMask()(shape, generator("mask"))
    assert host.dtype == torch.bool
    assert host.shape == shape
    assert int((~host).sum()) == pasted


@given(SHAPES, st.floats(0.1, 1.0), st.booleans(), st.integers(0, 1000))
def test_box_is_one_axis_aligned_box(shape, beta, inclusive, seed):
    mask = PasteMask(beta, "box", inclusive)
    inside = ~mask(shape, generator(seed))
    if all(mask.side(n) for n in shape):
        box = bounding_box(inside)
        assert [b - a for a, b in box] == [mask.side(n) for n in shape]
        assert inside[tuple(slice(a, b) for a, b in box)].all()
        assert int(inside.sum()) == torch.tensor([b - a for a, b in box]).prod()


@pytest.mark.parametrize(("inclusive", "legal"), [(True, {0, 1, 2, 3}), (False, {0, 1, 2})])
def test_every_legal_start_is_drawn(inclusive, legal):
    """9 pixels, side 6: starts 0 to 3. The published code cannot draw the last."""
    mask = PasteMask(inclusive_end=inclusive)
    starts = [tuple(a for a, _ in bounding_box(~mask((9, 9), generator(i)))) for i in range(300)]
    assert set(starts) == set(itertools.product(legal, legal))


def test_a_box_as_large_as_the_image_fits_in_both_conventions():
    for inclusive in (True, False):
        assert not PasteMask(1.0, "box", inclusive)((5, 6), generator(0)).any()


@pytest.mark.parametrize("shape", [(256, 256), (30, 24), (27, 18, 30)])
def test_grid_pastes_one_box_into_every_cell(shape):
    inside = ~PasteMask(kind="grid")(shape, generator("grid"))
    side = [int(n * 2 / 9 + 1e-6) for n in shape]
    for cell in itertools.product(range(3), repeat=len(shape)):
        part = inside[tuple(slice(i * n // 3, (i + 1) * n // 3) for i, n in zip(cell, shape))]
        box = bounding_box(part)
        assert [b - a for a, b in box] == side
        assert int(part.sum()) == torch.tensor(side).prod()


def test_grid_pastes_the_published_share_of_a_slice():
    assert (~PasteMask(kind="grid")((256, 256), generator(0))).float().mean() == pytest.approx(0.431, abs=5e-4)


@pytest.mark.parametrize(("shape", "axis", "thickness"), [((256, 256), 0, 113), ((112, 112, 80), 2, 23)])
def test_slab_is_constant_along_the_other_axes(shape, axis, thickness):
    inside = ~PasteMask(kind="slab")(shape, generator("slab"))
    profile = inside.movedim(axis, 0).flatten(1)
    assert (profile == profile[:, :1]).all()
    assert int(profile[:, 0].sum()) == thickness


@pytest.mark.parametrize("kind", ["box", "grid", "slab"])
@pytest.mark.parametrize("shape", [(16, 16), (9, 9, 9)])
def test_beta_zero_pastes_nothing(kind, shape):
    assert PasteMask(0.0, kind)(shape, generator(0)).all()


@given(st.integers(0, 1000), st.sampled_from([torch.float32, torch.float16, torch.int64, torch.uint8]))
def test_paste_identities(seed, dtype):
    g = generator(seed)
    a, b = torch.randint(100, (2, 3, 1, 8, 8), generator=g).to(dtype)
    mask = PasteMask()((8, 8), g)
    everywhere = torch.ones(8, 8, dtype=torch.bool)
    assert paste(a, b, mask).dtype == dtype
    assert torch.equal(paste(a, b, mask) + paste(b, a, mask), a + b)
    assert torch.equal(paste(a, a, mask), a)
    assert torch.equal(paste(a, b, everywhere), a)
    assert torch.equal(paste(a, b, ~everywhere), b)
