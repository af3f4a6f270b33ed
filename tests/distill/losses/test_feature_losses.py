"""FitNets, AT, SP, RKD, CRD, CWD, MGD, ReviewKD and SimKD: hand values and invariants of classic_kd.md."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import FEW
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.attention_transfer import AttentionTransferLoss, attention_map, attention_transfer_loss
from medkd.distill.losses.crd import CRDLoss, crd_nce_loss
from medkd.distill.losses.cwd import CWDLoss, cwd_loss, spatial_kl
from medkd.distill.losses.fitnets import FitNetLoss
from medkd.distill.losses.mgd import MGDLoss, kept
from medkd.distill.losses.reviewkd import ReviewKDLoss, hierarchical_context_loss
from medkd.distill.losses.rkd import RKDLoss, angles, normalised_distances, rkd_loss
from medkd.distill.losses.similarity_preserving import SimilarityPreservingLoss, similarity_preserving_loss
from medkd.distill.losses.simkd import SimKDLoss
from medkd.engine.randomness import generator
from medkd.errors import InputError


def near(*values: float) -> object:
    return pytest.approx(list(values) if len(values) > 1 else values[0], abs=1e-6)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, *shape), dtype=torch.float64)


def rotation(size: int, seed: int) -> Tensor:
    return torch.linalg.qr(normal(size, size, seed=seed))[0]


# Hand values


def test_attention_transfer_of_the_card() -> None:
    s = torch.tensor([[[[1.0, 0], [0, 1]], [[0, 2], [0, 0]]]])
    t = torch.ones(1, 2, 2, 2)
    assert attention_map(s)[0].tolist() == near(0.235702, 0.942809, 0, 0.235702)
    assert attention_map(t)[0].tolist() == near(0.5, 0.5, 0.5, 0.5)
    assert attention_transfer_loss(s, t).item() == near(0.146447)
    assert attention_transfer_loss(s, t, mode="paper").item() == near(0.765367)


def test_similarity_preserving_of_the_card() -> None:
    s, t = torch.tensor([[1.0, 0], [1, 1]]), torch.tensor([[2.0, 0], [0, 1]])
    assert SimilarityPreservingLoss()(s, t).item() == near(0.199233)


def test_rkd_of_the_card() -> None:
    t, s = torch.tensor([[0.0, 0], [3, 0], [0, 4]]), torch.tensor([[0.0, 0], [1, 0], [0, 1]])
    assert rkd_loss(s, t, 1, 0).item() == pytest.approx(0.00348125, abs=1e-8)
    assert rkd_loss(s, t, 0, 1).item() == pytest.approx(0.00074448, abs=1e-8)
    assert RKDLoss()(s, t).item() == near(0.124255)


def test_crd_of_the_card() -> None:
    assert crd_nce_loss(torch.tensor([0.5]).log(), torch.tensor([[0.1, 0.2]]).log(), 0.5).item() == near(1.211941)


def test_cwd_of_the_card() -> None:
    s, t = torch.zeros(1, 1, 1, 2), torch.tensor([[[[0.0, math.log(3)]]]])
    assert cwd_loss(s, t).item() == near(0.130812)


@pytest.mark.parametrize(("side", "value"), [(8, 0.483333), (4, 0.464286), (2, 0.416667)])
@pytest.mark.parametrize("dims", [2, 3])
def test_hierarchical_context_of_the_card(side: int, value: float, dims: int) -> None:
    """Columns beyond the left half are 0; another axis of the same side changes nothing."""
    t = torch.zeros(1, 1, *[side] * dims)
    t[..., : side // 2] = 1
    assert hierarchical_context_loss(torch.zeros_like(t), t).item() == near(value)


@pytest.mark.parametrize(("side", "total"), [(1, 1.0), (2, 1.5), (3, 1.75), (4, 1.75), (5, 1.875), (8, 1.875)])
def test_hierarchical_context_skips_a_level_without_halving(side: int, total: float) -> None:
    """A single corner of height `side`^2 pools to 1 at the last level, and to (4 or 2)^2 at the levels it fills alone:
    the sum of the weights is what the card lists."""
    t = torch.zeros(1, 1, side, side, dtype=torch.float64)
    t[..., 0, 0] = side**2
    levels = [size for size in (4, 2, 1) if size < side]
    pooled = [F.adaptive_avg_pool2d(t, size).square().mean() for size in levels]
    parts = [t.square().mean(), *pooled]
    expected = sum(part / 2**i for i, part in enumerate(parts)) / total
    assert hierarchical_context_loss(torch.zeros_like(t), t).item() == near(expected.item())
    assert sum(1 / 2**i for i in range(len(parts))) == total


def test_simkd_projector_costs_what_the_card_says() -> None:
    convolutions = [m for m in SimKDLoss(256, 256).modules() if isinstance(m, nn.Conv2d)]
    assert sum(p.numel() for m in convolutions for p in m.parameters()) == 212_992


@pytest.mark.parametrize("side", [1, 3, 8])
def test_hierarchical_context_of_equal_maps_is_zero(side: int) -> None:
    f = normal(2, 3, side, side).requires_grad_()
    loss = hierarchical_context_loss(f, f.detach().clone())
    loss.backward()
    assert loss.item() == 0
    assert not f.grad.any()


# FitNets


def test_fitnets_with_an_identity_gives_zero_for_equal_features() -> None:
    loss, f = FitNetLoss(3, 3), normal(2, 3, 4, 4)
    loss.regressor = nn.Identity()
    assert loss(f, f).item() == 0


def test_fitnets_pools_the_larger_map() -> None:
    loss, s, t = FitNetLoss(3, 3), normal(2, 3, 8, 4), normal(2, 3, 4, 8)
    loss.regressor = nn.Identity()
    expected = (F.avg_pool2d(s, (2, 1)) - F.avg_pool2d(t, (1, 2))).square().mean()
    assert loss(s, t).item() == near(expected.item())


def test_projectors_of_other_dimensions_are_refused() -> None:
    with pytest.raises(InputError, match="spatial_dims is 4; it must be 1, 2 or 3"):
        FitNetLoss(3, 3, 4)
    with pytest.raises(ValueError, match="other axes"):
        FitNetLoss(3, 3)(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3, 4))


# Attention Transfer


def test_attention_needs_no_equal_channels_nor_sizes() -> None:
    s, t = normal(2, 3, 4, 4), normal(2, 7, 8, 8)
    assert attention_transfer_loss(s, t).item() == near(attention_transfer_loss(s, F.avg_pool2d(t, 2)).item())
    assert attention_transfer_loss(s, 5 * s.roll(1, 1)).item() == near(0)  # neither order nor size of channels


def test_attention_sums_over_layers() -> None:
    s, t = [normal(2, 3, 4, 4), normal(2, 5, 2, 2)], [normal(2, 2, 4, 4), normal(2, 2, 2, 2)]
    each = [attention_transfer_loss(a, b, 4.0, "paper") for a, b in zip(s, t)]
    assert AttentionTransferLoss(4.0, "paper")(s, t).item() == near(sum(each).item())
    with pytest.raises(ValueError, match="2 student and 1 teacher layers"):
        AttentionTransferLoss()(s, t[:1])


def test_odd_powers_take_the_absolute_value() -> None:
    """mdistiller raises to the power without it: negative activations would cancel positive ones."""
    s = torch.tensor([[[1.0, 1.0]], [[-1.0, 1.0]]]).transpose(0, 1)  # channels (1, 1) and (-1, 1)
    assert attention_map(s, 1.0)[0].tolist() == near(2**-0.5, 2**-0.5)
    assert attention_map(s, 3.0)[0].tolist() == near(2**-0.5, 2**-0.5)


def test_attention_averages_over_channels() -> None:
    """KD_Lib compares the powered features themselves, channel by channel."""
    s = normal(2, 4, 3, 3)
    assert attention_transfer_loss(s, s.flip(1)).item() == near(0)


def test_attention_of_a_silent_map_is_zero_with_finite_gradient() -> None:
    s, t = torch.zeros(1, 2, 3, 3, requires_grad=True), torch.zeros(1, 2, 3, 3)
    for mode in ("code", "paper"):
        loss = attention_transfer_loss(s, t, mode=mode)
        assert loss.item() == 0
        assert torch.autograd.grad(loss, s)[0].isfinite().all()


def test_attention_that_cannot_teach_is_refused() -> None:
    with pytest.raises(InputError, match="1 position are all alike"):
        attention_transfer_loss(torch.ones(2, 3, 1, 1), torch.ones(2, 3, 1, 1))
    with pytest.raises(ValueError, match="a map over space"):
        attention_transfer_loss(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(InputError, match=r"power is 0.5; it must be 1 or more"):
        AttentionTransferLoss(0.5)
    with pytest.raises(InputError, match="mode is 'l2'"):
        AttentionTransferLoss(mode="l2")


# Similarity-Preserving and RKD


@FEW
@given(st.integers(0, 1000), st.floats(0.1, 10))
def test_similarities_ignore_rotation_and_scale(seed: int, scale: float) -> None:
    s, t = normal(5, 4, seed=seed), normal(5, 6, seed=seed + 1)
    moved = scale * s @ rotation(4, seed)
    assert similarity_preserving_loss(moved, t).item() == pytest.approx(similarity_preserving_loss(s, t).item())


@FEW
@given(st.integers(0, 1000), st.floats(0.1, 10), st.sampled_from(["student", "teacher"]))
def test_rkd_ignores_translation_rotation_and_scale(seed: int, scale: float, side: str) -> None:
    s, t = normal(5, 4, seed=seed), normal(5, 4, seed=seed + 1)
    for weights in ((1, 0), (0, 1)):
        before = rkd_loss(s, t, *weights).item()
        if side == "student":
            after = rkd_loss(scale * s @ rotation(4, seed) + 3, t, *weights).item()
        else:
            after = rkd_loss(s, scale * t @ rotation(4, seed) + 3, *weights).item()
        assert after == pytest.approx(before, abs=1e-9)


def test_relations_average_over_the_zero_diagonal() -> None:
    d = normalised_distances(normal(4, 3))
    assert d.diagonal().tolist() == [0] * 4
    assert (d.sum() / 12).item() == near(1)
    a = angles(normal(4, 3))
    assert a[0, 1, 1].item() == near(1)
    assert a[0, 0].tolist() == [0] * 4


def test_duplicated_samples_leave_the_gradient_finite() -> None:
    """Public code takes the root of 1e-12 for a sample met twice: the gradient is a million times too large."""
    s = normal(4, 3)
    s[1] = s[0]
    s.requires_grad_()
    rkd_loss(s, normal(4, 3, seed=1)).backward()
    assert s.grad.abs().max() < 100
    same = torch.ones(4, 3, requires_grad=True)  # a collapsed student
    rkd_loss(same, normal(4, 3)).backward()
    assert same.grad.isfinite().all()


def test_too_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match="2 or more samples in the batch, not 1"):
        similarity_preserving_loss(torch.ones(1, 3), torch.ones(1, 3))
    for samples in (1, 2):
        with pytest.raises(InputError, match=f"3 or more samples in the batch, not {samples}"):
            rkd_loss(torch.ones(samples, 3), torch.ones(samples, 3))
    with pytest.raises(InputError, match="both weights of RKD are 0"):
        rkd_loss(torch.ones(4, 3), torch.ones(4, 3), 0, 0)
    with pytest.raises(ValueError, match="pool the features first"):
        rkd_loss(torch.ones(4, 3, 2, 2), torch.ones(4, 3))


def test_two_samples_would_teach_rkd_nothing() -> None:
    """Why two are refused: one distance is its own mean, and the angles are constant."""
    s = normal(2, 3)
    assert normalised_distances(s).flatten().tolist() == near(0, 1, 1, 0)
    assert torch.allclose(angles(s), angles(normal(2, 3, seed=1)))


# CRD


def crd(**options: object) -> CRDLoss:
    torch.manual_seed(0)
    labels = torch.tensor([0, 0, 0, 0, 1, 1, 1, 2, 2, 2])
    return CRDLoss(5, 6, labels, **{"dim": 8, "negatives": 100, **options})


def test_negatives_are_of_other_classes_and_none_twice() -> None:
    """The reference code fails where more negatives are asked for than there are samples; here as many as fit."""
    loss = crd()
    assert loss.count == 6
    index = torch.tensor([0, 5, 9])
    negatives = loss.negatives(index, torch.rand(3, 10, generator=generator(0)))
    assert negatives.shape == (3, 6)
    assert (loss.labels[negatives] != loss.labels[index][:, None]).all()
    assert all(len(set(row.tolist())) == 6 for row in negatives)
    other = loss.negatives(index, torch.rand(3, 10, generator=generator(1)))
    assert not torch.equal(other, negatives)


def test_z_is_fixed_from_the_first_training_batch() -> None:
    loss, index = crd(), torch.arange(4)
    s, t = normal(4, 5).float(), normal(4, 6).float()
    negatives = loss.negatives(index, torch.rand(4, 10, generator=generator(0)))
    loss.eval()(s, t, index, negatives)
    assert loss.log_z.isnan().all()
    loss.train()(s, t, index, negatives)
    first = loss.log_z.clone()
    v, _ = loss.embeddings(s, t)
    rows = torch.cat([index[:, None], negatives], 1)
    scores = torch.einsum("bd,bkd->bk", v, loss.teacher_bank[rows]) / 0.07
    assert first[0].exp().item() == pytest.approx(scores.exp().mean().item() * 10, rel=1e-4)
    loss(-s, t + 1, index, negatives)
    assert torch.equal(loss.log_z, first)


def test_crd_is_the_equation_of_the_card() -> None:
    """Each side's anchors against the other's bank, P = exp(<v, m> / tau) / Z, r = K / N; here K is 6 and N 10."""
    loss, index = crd(temperature=0.5).double(), torch.arange(4)
    s, t = normal(4, 5), normal(4, 6)
    negatives = loss.negatives(index, torch.rand(4, 10, generator=generator(0)))
    rows = torch.cat([index[:, None], negatives], 1)
    expected = 0.0
    for anchor, bank in zip(loss.embeddings(s, t), (loss.teacher_bank, loss.student_bank)):
        p = (torch.einsum("bd,bkd->bk", anchor, bank[rows]) / 0.5).exp()
        p = p / (p.mean() * 10)
        expected -= ((p[:, 0] / (p[:, 0] + 0.6)).log() + (0.6 / (p[:, 1:] + 0.6)).log().sum(1)).mean().item()
    assert loss(s, t, index, negatives).item() == pytest.approx(expected, rel=1e-9)


def test_banks_move_only_when_told() -> None:
    loss, index = crd(momentum=0.25), torch.tensor([2, 7])
    s, t = normal(2, 5).float(), normal(2, 6).float()
    before = loss.student_bank.clone()
    loss(s, t, index, loss.negatives(index, torch.rand(2, 10)))
    assert torch.equal(loss.student_bank, before)
    loss.update(s, t, index)
    expected = F.normalize(0.25 * before[index] + 0.75 * loss.embeddings(s, t)[0], dim=1)
    assert torch.allclose(loss.student_bank[index], expected)
    others = [i for i in range(10) if i not in (2, 7)]
    assert torch.equal(loss.student_bank[others], before[others])
    assert torch.allclose(loss.teacher_bank.norm(dim=1), torch.ones(10))
    assert {"student_bank", "teacher_bank", "log_z", "labels"} == {name for name, _ in loss.named_buffers()}


def test_crd_follows_its_device() -> None:
    """mdistiller calls .cuda() in the constructor; here nothing but .to() decides."""
    assert {x.device.type for x in crd().to("meta").state_dict().values()} == {"meta"}


def test_crd_is_never_zero_and_falls_as_the_positive_stands_out() -> None:
    n = torch.full((1, 3), 0.2).log()
    values = [crd_nce_loss(torch.tensor([p]).log(), n, 0.5).item() for p in (0.1, 1.0, 100.0)]
    assert values == sorted(values, reverse=True)
    assert values[-1] > 0
    far = crd_nce_loss(torch.tensor([-500.0]), torch.full((1, 3), 500.0), 0.5)
    assert far.item() == pytest.approx(4 * 500, rel=0.01)  # neither log(0) nor an eps beside it


def test_crd_options_out_of_range_are_refused() -> None:
    with pytest.raises(InputError, match="all 4 samples are of one class"):
        CRDLoss(5, 6, torch.zeros(4, dtype=torch.int64))
    with pytest.raises(InputError, match="temperature is 0"):
        crd(temperature=0)
    with pytest.raises(InputError, match=r"momentum is 1.0; it must be at least 0 and below 1"):
        crd(momentum=1.0)
    with pytest.raises(InputError, match=r"ratio is 0.0"):
        crd_nce_loss(torch.zeros(1), torch.zeros(1, 2), 0.0)
    with pytest.raises(ValueError, match=r"negatives has shape \(2, 3\); needed: \(2, 6\)"):
        crd()(torch.zeros(2, 5), torch.zeros(2, 6), torch.arange(2), torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match="pool the features first"):
        crd()(torch.zeros(2, 5, 1, 1), torch.zeros(2, 6), torch.arange(2), torch.zeros(2, 6, dtype=torch.int64))


# CWD


@FEW
@given(st.integers(0, 1000), st.floats(0.5, 5))
def test_cwd_ignores_a_constant_of_each_channel(seed: int, temperature: float) -> None:
    s, t = normal(2, 3, 4, 5, seed=seed), normal(2, 3, 4, 5, seed=seed + 1)
    shift = normal(2, 3, 1, 1, seed=seed + 2)
    value = cwd_loss(s, t, temperature).item()
    assert cwd_loss(s + shift, t - shift, temperature).item() == pytest.approx(value)


def test_cwd_divides_by_the_temperature_and_multiplies_by_its_square() -> None:
    s, t = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    assert cwd_loss(s, t, 4.0).item() == near(16 * cwd_loss(s / 4, t / 4).item())


def test_cwd_compares_present_channels_only() -> None:
    s, t = normal(2, 3, 4, 5), normal(2, 3, 4, 5, seed=1)
    present = torch.tensor([[True, False, True], [False, False, True]])
    each = spatial_kl(s, t, 1.0)
    assert CWDLoss()(s, t, present).item() == near(each[present].mean().item())
    s.requires_grad_()
    nothing = cwd_loss(s, t, present=torch.zeros_like(present))
    assert nothing.item() == 0
    nothing.backward()
    assert not s.grad.any()


def test_cwd_of_a_whole_volume_in_half_precision() -> None:
    """Probabilities of 5e-7 (128^3 voxels) vanish in float16, and so would the logarithm of a softmax."""
    shape = (1, 1, 128, 128, 128)
    s, t = (torch.randn(shape, generator=generator(i)).half() for i in range(2))
    exact = cwd_loss(s.double(), t.double()).item()
    assert cwd_loss(s, t).item() == pytest.approx(exact, rel=1e-4)


def test_spatial_kl_of_kept_positions_equals_that_of_the_cropped_map() -> None:
    s, t = normal(2, 3, 6), normal(2, 3, 6, seed=1)
    keep = torch.zeros(2, 3, 6, dtype=torch.bool)
    keep[..., 2:5] = True
    assert torch.allclose(spatial_kl(s, t, 2.0, keep), spatial_kl(s[..., 2:5], t[..., 2:5], 2.0))


def test_cwd_that_cannot_teach_is_refused() -> None:
    with pytest.raises(InputError, match="maps of 1 position"):
        cwd_loss(torch.ones(2, 3, 1, 1), torch.ones(2, 3, 1, 1))
    with pytest.raises(ValueError, match="maps over space"):
        cwd_loss(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(InputError, match="temperature is 0"):
        CWDLoss(0)


# MGD


def test_mgd_masks_the_share_it_is_told() -> None:
    uniform = torch.rand(1000, 100, generator=generator(0))
    assert (~kept(uniform, 0.65)).float().mean().item() == pytest.approx(0.65, abs=0.01)
    assert kept(uniform, 0.0).all()


@pytest.mark.parametrize(("mask", "shape"), [("spatial", (1, 4, 5)), ("channel", (3, 1, 1))])
def test_mgd_masks_the_students_features(mask: str, shape: tuple[int, ...]) -> None:
    loss = MGDLoss(3, 3, ratio=0.5, mask=mask)
    loss.align = loss.generation = nn.Identity()
    s, t = normal(2, 3, 4, 5).requires_grad_(), normal(2, 3, 4, 5, seed=1)
    assert loss.mask_shape(s) == shape
    uniform = torch.rand(2, *shape, generator=generator(0))
    loss(s, t, uniform).backward()
    assert torch.equal(s.grad != 0, (uniform <= 0.5).expand_as(s))
    loss.ratio = 0.0
    assert loss(t, t, uniform).item() == 0


def test_mgd_weight_of_the_paper() -> None:
    """The published sum over channels and positions, divided by the batch, is C H W times this mean."""
    loss = MGDLoss(3, 6).double()
    s, t, uniform = normal(2, 3, 4, 5), normal(2, 6, 4, 5, seed=1), torch.rand(2, 1, 4, 5, generator=generator(0))
    generated = loss.generation(loss.align(s * kept(uniform, 0.65)))
    published = 2e-5 * (generated - t).square().sum() / 2
    assert (2e-5 * 6 * 4 * 5 * loss(s, t, uniform)).item() == pytest.approx(published.item())


def test_mgd_options_out_of_range_are_refused() -> None:
    for ratio in (-0.1, 1.0):
        with pytest.raises(InputError, match=f"ratio is {ratio}"):
            MGDLoss(3, 3, ratio=ratio)
    with pytest.raises(InputError, match="mask is 'pixel'"):
        MGDLoss(3, 3, mask="pixel")
    with pytest.raises(ValueError, match=r"uniform has shape \(2, 4, 5\); needed: \(2, 1, 4, 5\)"):
        MGDLoss(3, 3)(torch.zeros(2, 3, 4, 5), torch.zeros(2, 3, 4, 5), torch.zeros(2, 4, 5))


# ReviewKD


def test_reviewkd_compares_at_the_teachers_size_and_channels() -> None:
    torch.manual_seed(0)
    loss = ReviewKDLoss([8, 4, 2], [6, 5, 3], middle=4)
    s = [torch.randn(2, c, n, n) for c, n in ((8, 1), (4, 2), (2, 4))]
    t = [torch.randn(2, c, n, n) for c, n in ((6, 2), (5, 4), (3, 8))]
    assert loss(s, t).isfinite()
    assert [f.expand[0].out_channels for f in loss.fusions] == [6, 5, 3]
    assert ReviewKDLoss([1024, 4], [6, 5]).fusions[0].reduce[0].out_channels == 512


def test_reviewkd_fuses_deep_features_by_attention() -> None:
    """With an attention of one half each, the mean of the reduced stage and of the deeper one at its size."""
    torch.manual_seed(0)
    fusion = ReviewKDLoss([3, 3], [3, 3]).eval().fusions[1]
    nn.init.zeros_(fusion.attention.weight)
    nn.init.zeros_(fusion.attention.bias)
    stage, deeper = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 2, 2)
    projected, fused = fusion(stage, deeper, (8, 8))
    expected = (fusion.reduce(stage) + deeper.repeat_interleave(2, 2).repeat_interleave(2, 3)) / 2
    assert torch.allclose(fused, expected, atol=1e-6)
    assert torch.allclose(projected, fusion.expand(expected.repeat_interleave(2, 2).repeat_interleave(2, 3)), atol=1e-6)
    nn.init.constant_(fusion.attention.bias, 50.0)  # the sigmoid of each share is 1: they need not sum to 1
    assert torch.allclose(fusion(stage, deeper, (8, 8))[1], 2 * expected, atol=1e-5)
    fusion.attention.bias.data = torch.tensor([50.0, -50.0])  # the first share is the stage's own
    assert torch.allclose(fusion(stage, deeper, (8, 8))[1], fusion.reduce(stage), atol=1e-6)


def test_reviewkd_adds_up_the_levels() -> None:
    torch.manual_seed(0)
    loss = ReviewKDLoss([3, 3], [3, 3]).eval()
    s, t = ([torch.randn(2, 3, n, n) for n in (2, 4)] for _ in range(2))
    deep, residual = loss.fusions[0](s[0], None, (2, 2))
    shallow, _ = loss.fusions[1](s[1], residual, (4, 4))
    levels = [hierarchical_context_loss(f, its) for f, its in zip((deep, shallow), t)]
    assert loss(s, t).item() == pytest.approx(sum(levels).item())


def test_reviewkd_that_cannot_be_built_or_run_is_refused() -> None:
    with pytest.raises(InputError, match="2 student, 1 teacher stages"):
        ReviewKDLoss([3, 3], [3])
    with pytest.raises(ValueError, match="1 student and 2 teacher maps; needed: 2"):
        ReviewKDLoss([3, 3], [3, 3])([torch.ones(2, 3, 2, 2)], [torch.ones(2, 3, 2, 2)] * 2)
    with pytest.raises(InputError, match="one sample of one position cannot be batch-normalised"):
        ReviewKDLoss([3], [3])([torch.ones(1, 3, 1, 1)], [torch.ones(1, 3, 1, 1)])
    with pytest.raises(ValueError, match="maps over space"):
        hierarchical_context_loss(torch.ones(2, 3), torch.ones(2, 3))


# SimKD


def test_simkd_predicts_with_the_teachers_head() -> None:
    torch.manual_seed(0)
    loss, head = SimKDLoss(3, 4, spatial_dims=3).eval(), nn.Linear(4, 5).requires_grad_(False)
    s = torch.randn(2, 3, 2, 3, 4)
    assert torch.allclose(loss.logits(s, head), head(loss.projector(s).mean((2, 3, 4))))
    assert (loss.projector(s) >= 0).all()  # compared after the ReLU
    with pytest.raises(InputError, match="must be frozen"):
        loss.logits(s, nn.Linear(4, 5))
    with pytest.raises(InputError, match="this teacher's head is a Sequential"):
        loss.logits(s, nn.Sequential(head))
    with pytest.raises(InputError, match="reduction is 3; it must divide the teacher's 4 channels"):
        SimKDLoss(3, 4, reduction=3)


def test_simkd_with_an_identity_gives_zero_for_equal_features() -> None:
    loss, f = SimKDLoss(4, 4), normal(2, 4, 3, 3)
    loss.projector = nn.Identity()
    assert loss(f, f).item() == 0
    assert loss(F.interpolate(f, (6, 6)), f).item() == near(0)  # the larger map is pooled
