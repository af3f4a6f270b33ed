"""Hinton, Bernoulli, DKD, DIST, OFA and PLD: hand values and invariants of their cards."""

from __future__ import annotations

import itertools
import math
import warnings

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from loss_cases import FEW
from torch.nn import functional as F

from medkd.distill.losses.dist import DISTLoss, between_samples, dist_loss, pearson
from medkd.distill.losses.dkd import DKDLoss, dkd_loss, dkd_terms
from medkd.distill.losses.hinton import BernoulliKDLoss, HintonKDLoss, bernoulli_kd_loss, hinton_kd_loss
from medkd.distill.losses.ofa import OFALoss, ofa_loss, ofa_weights
from medkd.distill.losses.pld import PLDLoss, plackett_luce_loss, pld_loss, ranking
from medkd.distill.losses.shared import softened_kl
from medkd.engine.randomness import generator
from medkd.errors import InputError

# The inputs shared by the cards
S = torch.tensor([[2.0, 1.0, 0.1], [0.5, 2.5, 0.3]], dtype=torch.float64)
T = torch.tensor([[3.0, 1.5, 0.2], [0.2, 3.2, -0.5]], dtype=torch.float64)
Y = torch.tensor([0, 1])
THREE_S = torch.cat([S, S.new_tensor([[0.2, 0.4, 1.5]])])
THREE_T = torch.cat([T, T.new_tensor([[1.0, 0.3, 2.0]])])


def near(*values: float) -> object:
    return pytest.approx(list(values) if len(values) > 1 else values[0], abs=1e-6)


def random_logits(seed: int, *shape: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = generator(seed)
    s, t = 2 * torch.randn(2, *shape, generator=g, dtype=torch.float64)
    return s, t, torch.randint(shape[1], (shape[0], *shape[2:]), generator=g)


# Hand values


def test_hinton_of_the_card() -> None:
    ce = F.cross_entropy(S, Y, reduction="none")
    assert ce.tolist() == near(0.417030, 0.220050)
    assert ce.mean().item() == near(0.318540)
    assert softened_kl(S, T, 1.0).tolist() == near(0.037578, 0.067336)
    assert hinton_kd_loss(S, T, 1.0).item() == near(0.052457)
    assert hinton_kd_loss(S, T, 4.0).item() == near(0.135768)
    assert (0.1 * ce.mean() + 0.9 * HintonKDLoss(4.0)(S, T)).item() == near(0.154045)
    assert hinton_kd_loss(S, T, 2.0, standardise=True).item() / 4 == near(0.000280)


@pytest.mark.parametrize("row", [0, 1])
def test_hinton_for_a_large_temperature(row: int) -> None:
    """T^2 KL goes to the squared distance of the centred logits over 2 C."""
    s, t = S[row : row + 1], T[row : row + 1]
    distance = ((s - s.mean()) - (t - t.mean())).square().sum() / 6
    assert distance.item() == near([0.067778, 0.194444][row])
    assert hinton_kd_loss(s, t, 1000.0).item() == near([0.067786, 0.194575][row])


def test_bernoulli_of_the_card() -> None:
    t, s = torch.tensor([[2.0, -1.0]]), torch.tensor([[1.0, -2.0]])
    each = [bernoulli_kd_loss(s[:, i : i + 1], t[:, i : i + 1]).item() for i in range(2)]
    assert each == near(0.067131, 0.082608)
    assert BernoulliKDLoss()(s, t).item() == near((0.067131 + 0.082608) / 2)


def test_dkd_of_the_card() -> None:
    target, others = dkd_terms(S, T, Y, 4.0)
    assert target.tolist() == near(0.003489, 0.011914)
    assert others.tolist() == near(0.001224, 0.001944)
    assert dkd_loss(S, T, Y).item() == near(0.325962)
    assert DKDLoss(3, beta=2.0, temperature=1.0)(S, T, Y).item() == near(0.093375)


def test_dist_of_the_card() -> None:
    assert dist_loss(S, T, gamma=0).item() == near(0.001906)
    assert dist_loss(THREE_S, THREE_T, gamma=0).item() == near(0.015438)
    assert dist_loss(THREE_S, THREE_T, beta=0).item() == near(0.003936)
    assert DISTLoss(3)(THREE_S, THREE_T).item() == near(0.019374)


def test_dist_between_two_samples_is_the_effect_of_eps_alone() -> None:
    """The card's 0.0000284 for two samples: a correlation of two numbers is 1, and 1e-8 beside the norms is all."""
    s, t = S.softmax(1), T.softmax(1)
    assert between_samples(s, t).item() == pytest.approx(0.0000284, abs=5e-8)
    assert dist_loss(S, T, gamma=0).item() + between_samples(s, t).item() == near(0.001935)
    assert pearson(s, t, 0, eps=0.0).tolist() == near(1, 1, 1)


@pytest.mark.parametrize(
    ("form", "gamma", "values", "mean"),
    [
        ("code", 1.0, (0.680803, 0.363339), 0.522071),
        ("paper", 1.0, (0.680803, 0.363339), 0.522071),
        ("code", 1.5, (0.698924, 0.400846), 0.549885),
        ("code", 2.0, (0.950579, 0.606218), 0.778398),
        ("paper", 1.5, (0.928381, 0.528806), 0.728593),
        ("paper", 2.0, (1.258583, 0.758719), 1.008651),
    ],
)
def test_ofa_of_the_card(form: str, gamma: float, values: tuple[float, float], mean: float) -> None:
    each = [ofa_loss(S[i : i + 1], T[i : i + 1], Y[i : i + 1], gamma, form=form).item() for i in range(2)]
    assert each == near(*values)
    assert OFALoss(gamma, form=form)(S, T, Y).item() == near(mean)


def test_ofa_weights_of_the_card() -> None:
    weights = ofa_weights(T.softmax(1), Y, 1.5)
    assert weights[0].tolist() == near(1.372520, 0.072447, 0.010307)
    assert weights[1].tolist() == near(0.009974, 1.682609, 0.003490)
    assert (weights[0] / weights[0].sum()).tolist() == near(0.943135, 0.049782, 0.007083)


def test_pld_of_the_card() -> None:
    each = [pld_loss(S[i : i + 1], T[i : i + 1], Y[i : i + 1]).item() for i in range(2)]
    assert each == near(0.384092, 0.232505)
    assert PLDLoss(3)(S, T, Y).item() == near(0.308299)
    assert pld_loss(S[:1], T[:1], torch.tensor([2])).item() == near(0.353724)


@pytest.mark.parametrize(
    ("student", "gradient"),
    [(S, (-0.265588, 0.138587, 0.127001)), (T, (-0.172241, 0.098134, 0.074107))],
    ids=["fixture", "student equal to teacher"],
)
def test_pld_gradient_of_the_card(student: torch.Tensor, gradient: tuple[float, ...]) -> None:
    s = student[:1].clone().requires_grad_()
    pld_loss(s, T[:1], Y[:1]).backward()
    assert s.grad[0].tolist() == near(*gradient)


def test_pld_with_two_classes_is_weighted_cross_entropy() -> None:
    s = torch.tensor([[1.0, -0.5], [0.2, 0.9]], dtype=torch.float64)
    t = torch.tensor([[2.0, -1.0], [-0.3, 0.4]], dtype=torch.float64)
    y = torch.tensor([0, 0])
    each = [pld_loss(s[i : i + 1], t[i : i + 1], y[i : i + 1]).item() for i in range(2)]
    assert each == near(0.191861, 0.366051)
    assert each == near(*(t.softmax(1)[:, 0] * F.cross_entropy(s, y, reduction="none")).tolist())


# Invariants


@FEW
@given(st.integers(0, 1000), st.floats(0.5, 8))
def test_temperature_divides_the_logits_and_its_square_multiplies_the_loss(seed: int, temperature: float) -> None:
    s, t, y = random_logits(seed, 4, 5)
    u, v = s / temperature, t / temperature
    for at_temperature, at_one in (
        (hinton_kd_loss(s, t, temperature), hinton_kd_loss(u, v, 1.0)),
        (bernoulli_kd_loss(s, t, temperature), bernoulli_kd_loss(u, v)),
        (dkd_loss(s, t, y, temperature=temperature), dkd_loss(u, v, y, temperature=1.0)),
        (dist_loss(s, t, temperature=temperature), dist_loss(u, v)),
    ):
        assert at_temperature.item() == pytest.approx(temperature**2 * at_one.item(), rel=1e-9)


def test_bernoulli_for_a_large_temperature() -> None:
    """T^2 KL of a sigmoid goes to an eighth of the squared difference."""
    s, t, _ = random_logits(0, 4, 5)
    assert bernoulli_kd_loss(s, t, 1000.0).item() == pytest.approx(((s - t).square() / 8).mean().item(), rel=1e-4)


def test_pld_divides_the_teachers_logits_alone_by_its_temperature() -> None:
    assert pld_loss(S, T, Y, 4.0).item() == near(pld_loss(S, T / 4, Y).item())
    assert pld_loss(S, T, Y, 4.0).item() != near(pld_loss(S, T, Y).item())


@FEW
@given(st.integers(0, 1000), st.floats(-20, 20), st.sampled_from(["student", "teacher"]))
def test_a_constant_on_all_classes_changes_nothing(seed: int, shift: float, side: str) -> None:
    s, t, y = random_logits(seed, 4, 5)
    ds, dt = (shift, 0.0) if side == "student" else (0.0, shift)
    for loss in (
        lambda a, b: hinton_kd_loss(a, b),
        lambda a, b: hinton_kd_loss(a, b, standardise=True),
        lambda a, b: dkd_loss(a, b, y),
        lambda a, b: dist_loss(a, b),
        lambda a, b: ofa_loss(a, b, y, 1.5),
        lambda a, b: pld_loss(a, b, y),
    ):
        assert loss(s + ds, t + dt).item() == pytest.approx(loss(s, t).item(), abs=1e-9)


@FEW
@given(st.integers(0, 1000))
def test_the_order_of_classes_does_not_matter(seed: int) -> None:
    s, t, y = random_logits(seed, 4, 5)
    order = torch.randperm(5, generator=generator(seed, "order"))
    moved = order.argsort()[y]
    for loss in (dkd_loss, ofa_loss, pld_loss):
        assert loss(s[:, order], t[:, order], moved).item() == pytest.approx(loss(s, t, y).item(), abs=1e-9)


@FEW
@given(st.integers(0, 1000), st.floats(0.5, 8))
def test_dkd_parts_make_up_the_plain_divergence(seed: int, temperature: float) -> None:
    s, t, y = random_logits(seed, 4, 5)
    target, others = dkd_terms(s, t, y, temperature)
    p = (t / temperature).softmax(1).gather(1, y[:, None])[:, 0]
    whole = softened_kl(s, t, temperature)
    assert torch.allclose(target + (1 - p) * others, whole, atol=1e-12)


@FEW
@given(st.integers(0, 1000), st.floats(0.1, 1.0), st.floats(-0.2, 0.2))
def test_dist_ignores_an_affine_map_of_the_probabilities_not_of_the_logits(seed: int, a: float, b: float) -> None:
    s, t, _ = random_logits(seed, 4, 5)
    p, q = s.softmax(1), t.softmax(1)
    for dim in (0, 1):
        assert torch.allclose(pearson(a * p + b, q, dim, eps=0.0), pearson(p, q, dim, eps=0.0), atol=1e-9)
    assert dist_loss(3 * s, t).item() != pytest.approx(dist_loss(s, t).item(), abs=1e-4)


@FEW
@given(st.integers(0, 1000))
def test_ofa_with_gamma_one_is_the_divergence_and_the_teachers_entropy(seed: int) -> None:
    s, t, y = random_logits(seed, 4, 5)
    p = t.softmax(1)
    entropy = -(p * p.log()).sum(1).mean().item()
    for form in ("code", "paper"):
        assert ofa_loss(s, t, y, form=form).item() == pytest.approx(hinton_kd_loss(s, t, 1.0).item() + entropy)
    assert ofa_loss(t, t, y).item() == pytest.approx(entropy)


@FEW
@given(st.integers(0, 1000), st.floats(1.0, 3.0), st.floats(0.05, 1.0))
def test_ofa_weights_and_gamma(seed: int, gamma: float, more: float) -> None:
    """The label's weight grows with gamma; the others fall in the code's form, and stay in the paper's."""
    _, t, y = random_logits(seed, 4, 5)
    own = F.one_hot(y, 5).bool()
    for form in ("code", "paper"):
        low, high = (ofa_weights(t.softmax(1), y, g, form) for g in (gamma, gamma + more))
        assert (high[own] > low[own]).all()
        assert ((high < low) if form == "code" else (high == low))[~own].all()


@pytest.mark.parametrize("gamma", [1.0, 1.5, 2.0])
def test_ofa_with_a_certain_teacher_is_scaled_cross_entropy(gamma: float) -> None:
    certain = 200.0 * F.one_hot(Y, 3).double()
    assert ofa_loss(S, certain, Y, gamma).item() == near((2**gamma - 1) * F.cross_entropy(S, Y).item())


@pytest.mark.parametrize("form", ["code", "paper"])
def test_ofa_is_smallest_at_its_normalised_weights(form: str) -> None:
    weights = ofa_weights(T.softmax(1), Y, 1.5, form)
    best = (weights / weights.sum(1, keepdim=True)).log().requires_grad_()
    ofa_loss(best, T, Y, 1.5, form=form).backward()
    assert best.grad.abs().max() < 1e-12
    assert ofa_loss(best, T, Y, 1.5, form=form) < ofa_loss(T, T, Y, 1.5, form=form)


def test_ofa_soft_labels_count_by_their_largest() -> None:
    mixed = torch.tensor([[0.6, 0.4, 0.0], [0.1, 0.7, 0.2]])
    assert ofa_loss(S, T, mixed, 1.5).item() == ofa_loss(S, T, Y, 1.5).item()


def test_ofa_exits_each_have_their_gamma() -> None:
    exits = [S + 1, -S]
    loss = OFALoss([1.0, 1.5, 2.0], final_weight=0.5, exit_weight=0.1)(S, T, Y, exits)
    parts = ofa_loss(exits[0], T, Y, 1.0) + ofa_loss(exits[1], T, Y, 1.5)
    assert loss.item() == pytest.approx((0.1 * parts + 0.5 * ofa_loss(S, T, Y, 2.0)).item())
    one = OFALoss(1.5)(S, T, Y, exits)
    assert one.item() == pytest.approx(sum(ofa_loss(z, T, Y, 1.5).item() for z in (*exits, S)))
    with pytest.raises(InputError, match="3 gammas for 1 exits"):
        OFALoss([1.0, 1.5, 2.0])(S, T, Y, exits[:1])


@FEW
@given(st.integers(0, 1000))
def test_pld_is_convex_positive_and_its_gradient_sums_to_zero(seed: int) -> None:
    s, t, y = random_logits(seed, 4, 5)
    other = random_logits(seed + 1, 4, 5)[0].requires_grad_()
    halfway = pld_loss((s + other) / 2, t, y)
    assert halfway <= (pld_loss(s, t, y) + pld_loss(other, t, y)) / 2 + 1e-12
    assert halfway >= 0
    pld_loss(other, t, y).backward()
    assert other.grad.sum(1).abs().max() < 1e-12


@FEW
@given(st.integers(0, 1000))
def test_pld_gradient_is_that_of_the_card(seed: int) -> None:
    s, t, y = random_logits(seed, 1, 5)
    s.requires_grad_()
    pld_loss(s, t, y).backward()
    order, a, z = ranking(t, y)[0].tolist(), t.softmax(1)[0], s.detach()[0]
    for position, i in enumerate(order):
        share = sum(
            a[order[k]] * z[i].exp() / sum(z[j].exp() for j in order[k:]) for k in range(position + 1)
        )  # fmt: skip
        assert s.grad[0, i].item() == pytest.approx((share - a[i]).item(), abs=1e-9)


def test_plackett_luce_special_cases() -> None:
    first = torch.tensor([[1.0, 0.0, 0.0]])
    assert plackett_luce_loss(S.gather(1, ranking(T, Y)), first).tolist() == near(
        *F.cross_entropy(S, Y, reduction="none").tolist()
    )
    last = torch.tensor([[0.0, 0.0, 1.0]])
    assert plackett_luce_loss(S, last).tolist() == [0, 0]


def test_equal_weights_are_list_mle() -> None:
    """C times the loss is -log of the probability of a ranking, and all rankings together have probability 1."""
    z = torch.tensor([0.3, -1.2, 2.0, 0.4], dtype=torch.float64)
    rankings = torch.tensor(list(itertools.permutations(range(4))))
    losses = plackett_luce_loss(z[rankings], torch.full((24, 4), 0.25, dtype=torch.float64))
    assert (-4 * losses).exp().sum().item() == pytest.approx(1)
    flat = torch.zeros(1, 4, dtype=torch.float64)  # a teacher without an opinion: the label, then the order of classes
    assert pld_loss(z[None], flat, torch.tensor([2])).item() == near(
        plackett_luce_loss(z[[2, 0, 1, 3]][None], flat + 0.25).item()
    )


def test_a_confidently_wrong_teacher_all_but_switches_the_label_off() -> None:
    """The label is ranked first, but its term weighs as little as the teacher believes in it."""
    wrong = torch.tensor([[-20.0, 20.0, 0.0]], dtype=torch.float64)
    assert ranking(wrong, Y[:1])[0].tolist() == [0, 1, 2]
    s = S[:1].clone().requires_grad_()
    pld_loss(s, wrong, Y[:1]).backward()
    assert abs(s.grad[0, 0].item()) < 1e-15
    assert s.grad[0, 1].item() == near((S[0, 1].exp() / S[0, 1:].exp().sum() - 1).item())


def test_pld_ranks_the_label_first_and_equal_logits_in_order() -> None:
    tied = torch.tensor([1.0, 5.0]).repeat(50)[None]  # an unstable sort shows from about 16 classes on
    odd, even = [c for c in range(1, 100, 2) if c != 41], list(range(0, 100, 2))
    assert ranking(tied, torch.tensor([41]))[0].tolist() == [41, *odd, *even]
    assert PLDLoss.includes_task_loss


# Few classes, few samples, no voxel


def test_two_classes_are_warned_about() -> None:
    s, t = S[:, :2], T[:, :2]
    with pytest.warns(UserWarning, match=r"beta = 8.0 has no effect"):
        dkd = DKDLoss(2, alpha=0.5)
    assert dkd(s, t, Y).item() == near(0.5 * hinton_kd_loss(s, t, 4.0).item())
    with pytest.warns(UserWarning, match=r"beta = 1.0 has no effect"):
        DISTLoss(2)
    with pytest.warns(UserWarning, match="PLD with 2 classes is cross-entropy"):
        PLDLoss(2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        DKDLoss(2, beta=0), DISTLoss(2, beta=0), DKDLoss(3), DISTLoss(3), PLDLoss(3), HintonKDLoss(), OFALoss()


def test_dkd_with_two_classes_has_no_second_part() -> None:
    s = S[:, :2].clone().requires_grad_()
    _, others = dkd_terms(s, T[:, :2], Y, 4.0)
    others.sum().backward()
    assert others.tolist() == [0, 0]
    assert not s.grad.any()


def test_dist_within_samples_of_two_classes_teaches_nothing() -> None:
    s = S[:, :2].clone().requires_grad_()
    dist_loss(s, T[:, :2], gamma=0).backward()
    assert s.grad.abs().max() < 1e-6


def test_two_samples_would_teach_dist_nothing_between_classes() -> None:
    """Why two are refused: a correlation of two numbers is -1 or 1, whatever they are."""
    s, t, _ = random_logits(0, 2, 5)
    s.requires_grad_()
    rho = pearson(s.softmax(1), t.softmax(1), 0, eps=0.0)
    assert rho.abs().tolist() == near(*[1.0] * 5)
    rho.sum().backward()
    assert s.grad.abs().max() < 1e-12


def test_what_teaches_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="DIST with 2 classes and gamma = 0 teaches nothing"):
        DISTLoss(2, gamma=0)
    with pytest.raises(InputError, match="standardised logits of 2 classes carry no confidence"):
        hinton_kd_loss(S[:, :2], T[:, :2], standardise=True)
    with pytest.raises(InputError, match="beta and gamma of DIST are both 0"):
        dist_loss(S, T, 0, 0)
    for rows in (1, 2):
        with pytest.raises(InputError, match=f"needs 3 or more samples or voxels, not {rows}"):
            dist_loss(S[:rows], T[:rows])
    dist_loss(S[:1, :, None].expand(1, 3, 4), T[:1, :, None].expand(1, 3, 4))  # voxels are samples
    for loss in (hinton_kd_loss, dist_loss):
        with pytest.raises(InputError, match="logits of 1 class"):
            loss(S[:, :1], T[:, :1])
    for loss in (dkd_loss, ofa_loss, pld_loss):
        with pytest.raises(InputError, match="logits of 1 class"):
            loss(S[:, :1], T[:, :1], Y)


@pytest.mark.parametrize("value", [0.0, -1.0, math.nan])
def test_options_out_of_range_are_refused(value: float) -> None:
    message = f"is {value}; it must be above 0"
    for build in (
        lambda: HintonKDLoss(value),
        lambda: BernoulliKDLoss(value),
        lambda: DKDLoss(3, temperature=value),
        lambda: DISTLoss(3, temperature=value),
        lambda: OFALoss(temperature=value),
        lambda: OFALoss([1.0, value]),
        lambda: PLDLoss(3, value),
    ):
        with pytest.raises(InputError, match=message):
            build()
    with pytest.raises(InputError, match="form is 'best'; it must be 'code' or 'paper'"):
        OFALoss(form="best")


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"logits have shape \(3,\)"):
        hinton_kd_loss(S[0], T[0])
    with pytest.raises(ValueError, match=r"labels has shape \(1,\); needed: \(2,\)"):
        dkd_loss(S, T, Y[:1])
    with pytest.raises(ValueError, match=r"valid has shape \(1,\); needed: \(2,\)"):
        hinton_kd_loss(S, T, valid=torch.ones(1, dtype=torch.bool))
    with pytest.raises(ValueError, match=r"valid has shape \(2, 1\)"):
        dist_loss(S, T, gamma=0, valid=torch.ones(2, 1, dtype=torch.bool))
    for module in (DKDLoss(4), PLDLoss(4)):
        with pytest.raises(ValueError, match="needed: 4 classes"):
            module(S, T, Y)
    with pytest.raises(ValueError, match="needed: 4 classes"):
        DISTLoss(4)(S, T)


MASKED = {
    "hinton": lambda s, t, y: hinton_kd_loss(s, t, valid=y != -100),
    "bernoulli": lambda s, t, y: bernoulli_kd_loss(s, t, valid=(y != -100)[:, None].expand_as(s)),
    "dkd": dkd_loss,
    "dist": lambda s, t, y: dist_loss(s, t, valid=y != -100),
    "ofa": lambda s, t, y: ofa_loss(s, t, y, 1.5),
    "pld": pld_loss,
}


@pytest.mark.parametrize("name", MASKED)
def test_ignored_voxels_count_for_nothing(name: str) -> None:
    """The loss is that of the valid voxels alone, as samples; corrupting the others changes no bit."""
    s, t, y = random_logits(0, 2, 3, 4, 5)
    y[torch.rand(y.shape, generator=generator(1)) < 0.4] = -100
    kept = (y != -100).flatten()
    rows = [x.movedim(1, -1).reshape(-1, 3)[kept] for x in (s, t)]
    loss = MASKED[name](s, t, y)
    assert loss.item() == pytest.approx(MASKED[name](*rows, y.flatten()[kept]).item())
    elsewhere = (y == -100)[:, None]
    assert torch.equal(MASKED[name](s.where(~elsewhere, 50.0), t.where(~elsewhere, -50.0), y), loss)


@pytest.mark.parametrize("name", MASKED)
def test_no_valid_voxel_gives_zero_attached_to_the_graph(name: str) -> None:
    s, t, y = random_logits(0, 2, 3, 4, 5)
    s.requires_grad_()
    loss = MASKED[name](s, t, torch.full_like(y, -100))
    assert loss.item() == 0
    loss.backward()
    assert not s.grad.any()


def test_an_empty_batch_gives_zero() -> None:
    """A detector without proposals, a rank without samples."""
    s = S[:0].clone().requires_grad_()
    for loss in (hinton_kd_loss(s, T[:0]), dkd_loss(s, T[:0], Y[:0]), pld_loss(s, T[:0], Y[:0])):
        assert loss.item() == 0
        loss.backward()


# Mistakes of public code


@pytest.mark.parametrize("loss", [hinton_kd_loss, dkd_loss, ofa_loss, pld_loss])
def test_no_logarithm_of_a_softmax(loss: object) -> None:
    """OFA's and DKD's published code take log(softmax(z)): a gap of 200 underflows, and the loss is infinite."""
    s = torch.tensor([[200.0, 0.0, 0.0]]).requires_grad_()
    t = torch.tensor([[0.0, 1.0, 2.0]])
    value = loss(s, t, 1.0) if loss is hinton_kd_loss else loss(s, t, torch.tensor([1]))
    assert value.isfinite()
    assert value > 50
    value.backward()
    assert s.grad.isfinite().all()


def test_dkd_masks_the_target_exactly() -> None:
    """The published code subtracts 1000 from the target's logit: a label that stands out by more is not masked."""
    s, t = S.clone(), T.clone()
    s[0, 0], t[0, 0] = 3000.0, 5000.0
    assert dkd_terms(s, t, Y, 4.0)[1][0].item() == near(dkd_terms(S, T, Y, 4.0)[1][0].item())


def test_the_divergence_is_taken_from_the_teacher_over_the_sum_of_classes() -> None:
    """KD_Lib swaps student and teacher, passes probabilities for logarithms, and averages over classes."""
    p, q = T.softmax(1), S.softmax(1)
    assert hinton_kd_loss(S, T, 1.0).item() == near((p * (p / q).log()).sum(1).mean().item())
    assert hinton_kd_loss(S, T, 1.0).item() != near(hinton_kd_loss(T, S, 1.0).item())


def test_ofa_has_no_factor_of_the_temperature() -> None:
    assert ofa_loss(S, T, Y, temperature=4.0).item() == near(ofa_loss(S / 4, T / 4, Y).item())


def test_sigmoids_are_compared_with_sigmoids() -> None:
    """OFA's published code has a variant that pairs a sigmoid student with a softmax teacher: two labels that are both
    certain could not be learnt."""
    both = torch.tensor([[8.0, 8.0]], dtype=torch.float64)
    assert bernoulli_kd_loss(both, both).item() == 0
    assert bernoulli_kd_loss(torch.zeros_like(both), both) > 0.6  # of a softmax, 1/2 each, it would be 0


def test_pld_is_one_graph() -> None:
    """The paper's listing ranks by a boolean mask and a view, which cannot be traced, least with ignored labels."""
    compiled = torch.compile(pld_loss, backend="eager", fullgraph=True)
    s, t, y = random_logits(0, 2, 3, 4)
    y[0, 1] = -100
    assert compiled(s, t, y).item() == pld_loss(s, t, y).item()


def test_pld_weights_use_the_teachers_own_logits() -> None:
    """The +infinity that ranks the label first must not reach the weights, where it would make a cross-entropy."""
    uncertain = torch.zeros(1, 3, dtype=torch.float64)
    assert pld_loss(S[:1], uncertain, Y[:1]) < F.cross_entropy(S[:1], Y[:1])
