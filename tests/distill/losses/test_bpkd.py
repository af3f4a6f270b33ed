"""Borders of classes and BPKD: hand values and invariants of bpkd.md."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import FEW
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

from medkd.distill.losses.bpkd import BPKDLoss, bpkd_terms, soft_edges
from medkd.distill.losses.class_edges import dilated, edge_kernel, edges
from medkd.distill.losses.cwd import cwd_loss
from medkd.distill.losses.hinton import hinton_kd_loss
from medkd.distill.losses.shared import softened_kl
from medkd.engine.randomness import generator
from medkd.errors import InputError

# The hand example of the card: one row of six pixels, two classes
ROW = torch.tensor([[0, 0, 0, 1, 1, 1]])
T = torch.tensor([[[2, 1.5, 0.5, -0.5, -1, -2], [-2, -1, -0.5, 0.5, 1, 2]]], dtype=torch.float64)
S = torch.tensor([[[1, 1, 0.2, 0, -1, -1], [-1, -0.5, 0, 0.2, 0.5, 1]]], dtype=torch.float64)
EVERYWHERE = ((torch.arange(6)[:, None] + torch.arange(6)) % 3).expand(2, 6, 6)
"""Diagonal stripes: every 3 x 3 box, cut by the image or not, holds all three classes."""
BOTH = pytest.mark.parametrize("form", ["paper", "stable"])


def near(*values: float) -> object:
    return pytest.approx(list(values) if len(values) > 1 else values[0], abs=1e-6)


def random_case(seed: int, *shape: int, classes: int = 3) -> tuple[Tensor, Tensor, Tensor]:
    g = generator(seed, *shape)
    s, t = torch.randn(2, shape[0], classes, *shape[1:], generator=g, dtype=torch.float64)
    return s, t, torch.randint(classes, shape, generator=g)


# Hand values


def test_edges_of_the_card() -> None:
    assert edges(torch.tensor([[0, 0, 1, 1]]), 2, 3).int().tolist() == [[[0, 1, 1, 0], [0, 1, 1, 0]]]
    assert edges(ROW, 2, 3)[0, 0].int().tolist() == [0, 0, 1, 1, 0, 0]
    first = torch.tensor([[[True, True, False, False]]])
    assert dilated(first, (3,)).int().tolist() == [[[1, 1, 1, 0]]]
    assert (~dilated(~first, (3,))).int().tolist() == [[[1, 0, 0, 0]]]  # the erosion; the image border is no edge


def test_paper_loss_of_the_card() -> None:
    edge, body = bpkd_terms(S, T, ROW, kernel=3)
    assert edge.item() == near(0.278896)
    assert body.item() == near(0.111637)
    assert softened_kl(S, T, 1.0)[0, 2:4].tolist() == near(0.069724, 0.069724)
    assert cwd_loss(S, T).item() == near(0.122622)
    assert BPKDLoss(2, 1, 3)(S, T, ROW).item() == pytest.approx(20 * 0.111637 + 50 * 0.278896, abs=1e-4)


def test_paper_loss_where_all_is_edge() -> None:
    edge, body = bpkd_terms(S, T, ROW, kernel=11)
    assert edge.item() == near(0.231072)
    assert body.item() == 0


def test_stable_loss_of_the_same_row() -> None:
    """Four pixel-class pairs of edge with phi 0.069724 each, times alpha; the body without the two edge pixels."""
    edge, body = bpkd_terms(S, T, ROW, 3, "stable")
    assert edge.item() == near(2 * 0.069724)
    inner = [0, 1, 4, 5]
    assert body.item() == near(cwd_loss(S[..., inner], T[..., inner]).item())
    assert body.item() != near(0.111637)
    assert BPKDLoss(2, 1, 3, "stable")(S, T, ROW).item() == pytest.approx(3 * body.item() + 3 * edge.item())


def test_paper_loss_on_a_coarser_grid() -> None:
    """Labels twice as fine as the logits: the mask is a share, and n_c its sum, not the count of cells with an edge."""
    labels = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1]])  # pixels 1 and 2 are edge: M = (1/2, 1/2, 0, 0, 0, 0)
    edge, body = bpkd_terms(S, T, labels, kernel=3)
    m = np.array([0.5, 0.5, 0, 0, 0, 0])
    s, t = S[0].numpy(), T[0].numpy()

    def divergence(z_s: np.ndarray, z_t: np.ndarray, axis: int) -> np.ndarray:
        p, q = (np.exp(z) / np.exp(z).sum(axis, keepdims=True) for z in (z_t, z_s))
        return (p * np.log(p / q)).sum(axis)

    phi = divergence(s * m, t * m, 0)
    assert edge.item() == near(2 * sum((phi * m).sum() / 1.0 for _ in range(2)))
    assert body.item() == near(divergence(s * (1 - m), t * (1 - m), 1).mean())


# The borders


@pytest.mark.parametrize("kernel", [(1, 1, 1), (3, 3, 3), (7, 5, 1), (1, 3, 5)])
def test_edges_are_dilation_less_erosion(kernel: tuple[int, ...]) -> None:
    """scipy's binary morphology with a box; the image border is no edge."""
    label = torch.randint(3, (1, 4, 4, 4), generator=generator(0)).repeat_interleave(3, 1).repeat_interleave(2, 3)
    found = edges(label, 3, kernel)[0].numpy()
    for c in range(3):
        mask, box = label[0].numpy() == c, np.ones(kernel)
        outer = ndimage.binary_dilation(mask, box)
        inner = ndimage.binary_erosion(mask, box, border_value=1)
        assert (found[c] == (outer & ~inner)).all()


def test_an_organ_cut_by_the_image_has_no_edge_there() -> None:
    label = torch.zeros(1, 8, 8, dtype=torch.int64)
    assert not edges(label, 2, 7).any()


def test_a_border_with_ignored_voxels_is_no_edge() -> None:
    """Dilation would spread into them, and erosion would take them for another class."""
    label = torch.tensor([[0, 0, -100, -100, 1, 1, 0]])
    assert edges(label, 2, 3).int().tolist() == [[[0, 0, 0, 0, 0, 1, 1]] * 2]
    assert edges(label, 2, 7)[:, :, 2:4].sum() == 0


def test_share_of_a_coarse_cell() -> None:
    label = torch.randint(3, (2, 8, 12), generator=generator(1))
    share, valid = soft_edges(label, torch.zeros(2, 3, 4, 4), 3)
    assert torch.allclose(share, F.avg_pool2d(edges(label, 3, 3).float(), (2, 3)))
    assert valid.all()
    assert torch.equal(share, soft_edges(label, torch.randn(2, 3, 4, 4).requires_grad_(), 3)[0])  # of the labels alone
    assert not share.requires_grad
    label[:, :2, :3] = -100  # a cell without a valid voxel
    label[:, 2, :3] = -100  # one with half of them
    share, valid = soft_edges(label, torch.zeros(2, 3, 4, 4), 3)
    assert not valid[:, :, 0, 0].any()
    assert valid.sum() == 2 * 16 - 2
    assert torch.allclose(share[:, :, 1, 0], edges(label, 3, 3)[:, :, 3, :3].float().mean(-1))


@pytest.mark.parametrize(
    ("spacing", "width", "kernel"),
    [((1, 1), 7, (7, 7)), ((0.8, 0.8, 10), 5, (7, 7, 1)), ((1, 1, 2.5), 8, (9, 9, 3)), ((3, 3, 3), 2, (1, 1, 1))],
)
def test_kernel_from_the_voxel_spacing(spacing: tuple[float, ...], width: float, kernel: tuple[int, ...]) -> None:
    """The nearest odd number of voxels: width / spacing is within 1 of it."""
    assert edge_kernel(spacing, width) == kernel
    assert all(abs(width / step - side) <= 1 for step, side in zip(spacing, kernel))


# Invariants


@BOTH
@FEW
@given(seed=st.integers(0, 1000))
def test_terms_are_positive_and_zero_for_equal_logits(form: str, seed: int) -> None:
    s, t, y = random_case(seed, 2, 6, 5)
    edge, body = bpkd_terms(s, t, y.repeat_interleave(2, 1), 3, form)
    assert edge > 0
    assert body > 0
    assert [x.item() for x in bpkd_terms(t, t, y, 3, form)] == near(0, 0)


@BOTH
@pytest.mark.parametrize("shape", [(2, 6, 5), (2, 4, 5, 3)])
def test_without_an_edge_the_body_is_cwd(form: str, shape: tuple[int, ...]) -> None:
    s, t, y = random_case(0, *shape)
    for label, kernel in ((torch.ones_like(y), 7), (y, 1)):
        edge, body = bpkd_terms(s, t, label, kernel, form, temperature=2.0)
        assert edge.item() == 0
        assert body.item() == near(cwd_loss(s, t, 2.0).item())


@BOTH
def test_edge_everywhere_leaves_no_body(form: str) -> None:
    s, t, _ = random_case(0, 2, 6, 6)
    s.requires_grad_()
    y = EVERYWHERE
    assert edges(y, 3, 3).all()
    edge, body = bpkd_terms(s, t, y, 3, form)
    assert body.item() == 0
    assert edge.item() > 0
    (edge + body).backward()
    assert s.grad.isfinite().all()


def test_edge_everywhere_is_the_plain_divergence() -> None:
    """Then M = 1: the stable form is alpha times Hinton's per-voxel loss, the paper's sums it over the classes."""
    s, t, _ = random_case(0, 2, 6, 6)
    y = EVERYWHERE
    plain = hinton_kd_loss(s, t, 2.0).item()
    assert bpkd_terms(s, t, y, 3, "stable", temperature=2.0)[0].item() == near(2 * plain)
    assert bpkd_terms(s, t, y, 3, "paper", temperature=2.0)[0].item() == near(3 * 2 * plain)


@BOTH
def test_a_constant_on_all_classes_of_a_voxel_is_seen(form: str) -> None:
    """The logits are masked by a mask of each class, so unlike the plain divergence this is not blind to it."""
    s, t, y = random_case(0, 2, 6, 5)
    shift = torch.randn(2, 1, 6, 5, generator=generator(3), dtype=torch.float64)
    assert hinton_kd_loss(s + shift, t).item() == near(hinton_kd_loss(s, t).item())
    assert bpkd_terms(s + shift, t, y, 3, form)[0].item() != near(bpkd_terms(s, t, y, 3, form)[0].item())


@BOTH
@pytest.mark.parametrize("coarse", [1, 2])
def test_ignored_voxels_count_for_nothing(form: str, coarse: int) -> None:
    s, t, y = random_case(0, 2, 6, 6)
    y[:, :3, 2:4] = -100
    y = y.repeat_interleave(coarse, 1).repeat_interleave(coarse, 2)
    before = bpkd_terms(s, t, y, 3, form)
    ignored = torch.zeros(6, 6, dtype=torch.bool)
    ignored[:3, 2:4] = True
    s = s.where(~ignored, 9.0).requires_grad_()
    after = bpkd_terms(s, t.where(~ignored, -9.0), y, 3, form)
    assert [x.item() for x in after] == [x.item() for x in before]
    sum(after).backward()
    assert not s.grad[..., ignored].any()
    assert s.grad[..., ~ignored].any()


@BOTH
def test_nothing_valid_gives_zero_attached_to_the_graph(form: str) -> None:
    s, t, y = random_case(0, 2, 6, 5)
    s.requires_grad_()
    loss = BPKDLoss(3, 2, 3, form)(s, t, torch.full_like(y, -100))
    assert loss.item() == 0
    loss.backward()
    assert not s.grad.any()


@BOTH
def test_body_and_edge_each_see_their_own_voxels(form: str) -> None:
    y = torch.zeros(1, 8, 8, dtype=torch.int64)
    y[:, 4:] = 1
    s, t, _ = random_case(0, 1, 8, 8, classes=2)
    edge = edges(y, 2, 3)[:, :1]
    before = bpkd_terms(s, t, y, 3, form)
    moved = bpkd_terms(s + 5 * edge * s, t, y, 3, form)
    assert moved[1].item() == near(before[1].item())
    assert moved[0].item() != near(before[0].item())


def test_a_small_class_counts_as_a_large_one_in_the_paper_and_by_its_voxels_in_the_stable_form() -> None:
    """Why the paper's form needs care: a class with two edge voxels weighs as much as one with hundreds."""
    y = torch.zeros(1, 1, 60, dtype=torch.int64)
    y[..., 20:40], y[..., 59] = 1, 2
    t = torch.zeros(1, 3, 1, 60, dtype=torch.float64)
    s = t.clone()
    s[:, 2, :, 58:] = 1.0  # wrong at the small class alone
    paper, stable = (bpkd_terms(s, t, y, 5, form)[0].item() for form in ("paper", "stable"))
    assert paper > 2.5 * stable


def test_three_dimensions_are_stable_by_default() -> None:
    assert (BPKDLoss(3, 2).normalisation, BPKDLoss(3, 3).normalisation) == ("paper", "stable")
    loss = BPKDLoss(3, 3)
    assert (loss.body_weight, loss.edge_weight, loss.kernel) == (3.0, 3.0, (7, 7, 7))
    s, t, y = random_case(0, 1, 4, 6, 8)
    edge, body = loss.terms(s, t, y)
    assert BPKDLoss(3, 3, body_weight=0.5, edge_weight=2)(s, t, y).item() == near((0.5 * body + 2 * edge).item())


# Bad input


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="kernel is 4; it must be one odd number of voxels, or one for each of 2 axes"):
        BPKDLoss(3, kernel=4)
    with pytest.raises(InputError, match=r"kernel is \(3, 3\); .* each of 3 axes"):
        BPKDLoss(3, 3, kernel=(3, 3))
    with pytest.raises(InputError, match="normalisation is 'new'"):
        BPKDLoss(3, normalisation="new")
    with pytest.raises(InputError, match="temperature is 0"):
        BPKDLoss(3, temperature=0)
    with pytest.raises(InputError, match=r"spacing\[1\] is 0"):
        edge_kernel((1, 0), 7)
    s, t, y = random_case(0, 2, 6, 5)
    with pytest.raises(ValueError, match=r"labels has shape \(2, 3, 5\); needed: \(2, \*S\), S at least \(6, 5\)"):
        bpkd_terms(s, t, y[:, :3])
    with pytest.raises(ValueError, match="needed: 4 classes"):
        BPKDLoss(4)(s, t, y)
    with pytest.raises(InputError, match="normalisation is 'new'"):
        bpkd_terms(s, t, y, normalisation="new")
    with pytest.raises(InputError, match="logits of 1 class"):
        bpkd_terms(s[:, :1], t[:, :1], y)
