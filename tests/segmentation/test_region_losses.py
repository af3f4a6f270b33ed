"""Dice and cross-entropy over regions (bcp.md 6, items 4 to 11; semi_supervised_baselines.md 6, items 7, 10, 11)."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from medkd.engine.randomness import generator
from medkd.segmentation.losses import (
    DiceCE,
    deep_supervision_weights,
    full_resolution,
    one_hot,
    region_cross_entropy,
    region_dice_ce,
    soft_dice_loss,
)

FORMS = ["batch_squared", "sample_linear", "batch_linear"]
# The hand-computed example of the card: one row of four pixels, two classes, the first two pixels are host.
LOGITS = torch.tensor([[0.0, 0, 2, 1], [0, 1, 0, 1]]).reshape(1, 2, 1, 4)
HOST = torch.tensor([[True, True, False, False]])
LABEL = torch.tensor([0, 1, 1, 0]).reshape(1, 1, 4)


def random_case(seed: int, dims: int = 2, dtype: torch.dtype = torch.float32):
    """logits (2, 3, *S), two labels (2, *S), host (*S)."""
    g = generator(seed)
    shape = (6, 5, 4)[:dims]
    logits = torch.randn(2, 3, *shape, generator=g, dtype=dtype)
    one, other = torch.randint(3, (2, 2, *shape), generator=g)
    return logits, one, other, torch.rand(shape, generator=g) < 0.6


# Hand values


def test_cross_entropy_of_the_card():
    pixel_loss = F.cross_entropy(LOGITS, LABEL, reduction="none")
    assert region_cross_entropy(pixel_loss, HOST[None]).item() == pytest.approx(0.503204, abs=1e-6)
    assert region_cross_entropy(pixel_loss, ~HOST[None]).item() == pytest.approx(1.410038, abs=1e-6)


@pytest.mark.parametrize(
    ("form", "host", "patch"), [("batch_squared", 0.212196, 0.658894), ("sample_linear", 0.389670, 0.716364)]
)
def test_dice_of_the_card(form, host, patch):
    p, t = LOGITS.softmax(1), one_hot(LABEL, 2)
    assert p[0, 1, 0].tolist() == pytest.approx([0.5, 0.731059, 0.119203, 0.5], abs=1e-6)
    assert soft_dice_loss(p, t, HOST[None], form).item() == pytest.approx(host, abs=1e-6)
    assert soft_dice_loss(p, t, ~HOST[None], form).item() == pytest.approx(patch, abs=1e-6)


@pytest.mark.parametrize(
    ("form", "weights", "value"),
    [
        ("batch_squared", (1, 0.5), 0.874933),
        ("batch_squared", (0.5, 1), 1.213316),
        ("batch_squared", (1, 1), 1.392166),
        ("sample_linear", (1, 0.5), 0.978037),
        ("sample_linear", (0.5, 1), 1.286419),
        ("sample_linear", (1, 1), 1.509638),
    ],
)
def test_composite_loss_of_the_card(form, weights, value):
    assert region_dice_ce(LOGITS, LABEL, HOST, *weights, form).item() == pytest.approx(value, abs=1e-6)


@pytest.mark.parametrize(("host", "right", "buggy"), [(True, 0.212196, 0.157764), (False, 0.658894, 0.613874)])
def test_background_dice_is_masked_like_every_class(host, right, buggy):
    """The BCP code of before October 2023 built the mask of class 0 from `0 == 0`, so the background Dice ran over the
    whole image, against labels that are not valid there (card pitfall 1)."""
    region = HOST if host else ~HOST
    label = torch.where(region, LABEL, 0)  # what the published code held outside the region
    p, t = LOGITS.softmax(1), one_hot(label, 2)
    background = soft_dice_loss(p[:, :1], t[:, :1])
    foreground = soft_dice_loss(p[:, 1:], t[:, 1:], region[None])
    assert ((background + foreground) / 2).item() == pytest.approx(buggy, abs=1e-6)
    assert soft_dice_loss(p, t, region[None]).item() == pytest.approx(right, abs=1e-6)


@pytest.mark.parametrize(
    ("kept", "classes", "mean"),
    [
        ([True, True, False, False], (0.243757, 0.180632), 0.212194),
        ([True, True, True, True], (0.402651, 0.442204), 0.422428),
    ],
)
def test_dice_with_ignored_pixels(kept, classes, mean):
    p, t, region = LOGITS.softmax(1), one_hot(LABEL, 2), torch.tensor(kept).reshape(1, 1, 4)
    for c, value in enumerate(classes):
        one = soft_dice_loss(p[:, c : c + 1], t[:, c : c + 1], region, "batch_squared", 1e-5)
        assert one.item() == pytest.approx(value, abs=1e-6)
    assert soft_dice_loss(p, t, region, "batch_squared", 1e-5).item() == pytest.approx(mean, abs=1e-6)


def test_nnunet_loss_of_the_card():
    """nnU-Net minimises CE - Dice, which is ours less 1."""
    p, t = LOGITS.softmax(1), one_hot(LABEL, 2)
    dice = 1 - soft_dice_loss(p, t, None, "batch_linear", 1e-5, background=False)
    assert dice.item() == pytest.approx(0.441666, abs=1e-6)
    assert F.cross_entropy(LOGITS, LABEL).item() == pytest.approx(0.956621, abs=1e-6)
    loss = DiceCE("batch_linear", 1e-5, background=False, dice_weight=1, ce_weight=1)
    assert loss(LOGITS, LABEL).item() - 1 == pytest.approx(0.514955, abs=1e-6)
    perfect = 30 * one_hot(LABEL, 2)
    assert loss(perfect, LABEL).item() - 1 == pytest.approx(-1, abs=1e-6)


@pytest.mark.parametrize(
    ("outputs", "weights"),
    [
        (5, [0.533333, 0.266667, 0.133333, 0.066667, 0]),
        (6, [0.516129, 0.258065, 0.129032, 0.064516, 0.032258, 0]),
        (1, [1.0]),
    ],
)
def test_deep_supervision_weights(outputs, weights):
    assert deep_supervision_weights(outputs) == pytest.approx(weights, abs=1e-6)


def test_deep_supervision_is_the_weighted_sum_of_its_outputs():
    logits, label, _, _ = random_case(0)
    deep = torch.stack([logits, logits + 1, -logits], 1)
    loss = DiceCE()
    assert loss(deep, label).item() == pytest.approx((2 * loss(logits, label) / 3 + loss(logits + 1, label) / 3).item())
    assert torch.equal(full_resolution(deep, torch.zeros(2, 1, 6, 5)), logits)
    assert full_resolution(logits, torch.zeros(2, 1, 6, 5)) is logits


# Invariants


@given(st.integers(0, 1000), st.sampled_from(FORMS), st.floats(0, 2), st.floats(0, 2))
def test_swap_symmetry(seed, form, w1, w2):
    """L(z; t, s, m, w1, w2) = L(z; s, t, 1 - m, w2, w1): the composite label is the same."""
    logits, t, s, host = random_case(seed)
    one = region_dice_ce(logits, torch.where(host, t, s), host, w1, w2, form)
    other = region_dice_ce(logits, torch.where(~host, s, t), ~host, w2, w1, form)
    assert one.item() == pytest.approx(other.item(), rel=1e-6, abs=1e-7)


@pytest.mark.parametrize("form", FORMS)
def test_weight_zero_leaves_no_gradient_in_the_pseudo_label_region(form):
    logits, label, _, host = random_case(1)
    logits.requires_grad_()
    region_dice_ce(logits, label, host, 1.0, 0.0, form).backward()
    assert (logits.grad[..., ~host] == 0).all()
    assert (logits.grad[..., host] != 0).any()


@given(st.integers(0, 1000), st.sampled_from(FORMS))
def test_everything_host_equals_the_plain_loss(seed, form):
    logits, label, _, _ = random_case(seed)
    everywhere = torch.ones(label.shape[1:], dtype=torch.bool)
    plain = DiceCE(form, smooth=None)(logits, label)
    assert region_dice_ce(logits, label, everywhere, 1.0, 1.0, form).item() == pytest.approx(plain.item(), abs=1e-6)


@pytest.mark.parametrize("form", FORMS)
def test_an_empty_region_gives_zero_attached_to_the_graph(form):
    logits, label, _, _ = random_case(2)
    logits.requires_grad_()
    nowhere = torch.zeros(label.shape, dtype=torch.bool)
    dice = soft_dice_loss(logits.softmax(1), one_hot(label, 3), nowhere, form)
    ce = region_cross_entropy(F.cross_entropy(logits, label, reduction="none"), nowhere)
    assert dice.item() == 0
    assert ce.item() == 0
    (dice + ce).backward()
    assert (logits.grad == 0).all()


@given(st.integers(0, 1000), st.sampled_from(FORMS))
def test_labels_outside_the_region_do_not_matter(seed, form):
    logits, one, other, host = random_case(seed)
    a = soft_dice_loss(logits.softmax(1), one_hot(one, 3), host[None], form)
    b = soft_dice_loss(logits.softmax(1), one_hot(torch.where(host, one, other), 3), host[None], form)
    assert torch.equal(a, b)


# The template every loss follows: shapes and dtypes, bad input, gradients


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dims", [2, 3])
def test_dtypes_and_shapes(dims, form, dtype):
    logits, label, _, host = random_case(3, dims)
    at_least_float32 = torch.float64 if dtype == torch.float64 else torch.float32
    for region in (host, host[None], host.expand_as(label)):
        loss = region_dice_ce(logits.to(dtype), label, region, 1.0, 0.5, form)
        assert loss.dtype == at_least_float32
        assert loss.shape == ()
        reference = region_dice_ce(logits, label, host, 1.0, 0.5, form)
        assert loss.item() == pytest.approx(reference.item(), rel=0.02)
    assert DiceCE(form)(logits.to(dtype), label).dtype == at_least_float32


def test_wrong_shapes_are_named():
    logits, label, _, host = random_case(4)
    p, t = logits.softmax(1), one_hot(label, 3)
    with pytest.raises(ValueError, match=r"target has shape \(1, 3, 6, 5\); needed: \(2, 3, 6, 5\)"):
        soft_dice_loss(p, t[:1])
    with pytest.raises(ValueError, match=r"target has shape \(2, 1, 6, 5\)"):
        soft_dice_loss(p, t[:, :1])
    with pytest.raises(ValueError, match=r"region has shape \(6, 5\); needed: \(2, 6, 5\) or \(1, 6, 5\)"):
        soft_dice_loss(p, t, host)
    with pytest.raises(ValueError, match=r"region has shape \(1, 6, 1\)"):
        region_cross_entropy(p[:, 0], host[None, :, :1])
    with pytest.raises(ValueError, match=r"label has shape \(1, 6, 5\)"):
        region_dice_ce(logits, label[:1], host, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"region has shape \(1, 5, 6\)"):
        region_dice_ce(logits, label, host.T, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"label has shape \(1, 6, 5\)"):
        DiceCE()(logits, label[:1])


@pytest.mark.parametrize("form", FORMS)
def test_gradients(form):
    logits, label, _, host = random_case(5, dtype=torch.float64)
    logits.requires_grad_()
    target = one_hot(label, 3)
    assert torch.autograd.gradcheck(lambda z: soft_dice_loss(z.softmax(1), target, host[None], form), logits)
    assert torch.autograd.gradcheck(lambda z: region_dice_ce(z, label, host, 1.0, 0.5, form), logits)
    assert torch.autograd.gradcheck(lambda z: DiceCE(form, background=False)(z, label), logits)
