"""The virtual step: its gradient against numbers computed by hand, and that it leaves no trace."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.engine.bilevel import Order, outer_loss

ORDERS: tuple[Order, ...] = ("unrolled", "finite_difference", "first_order")


class Card:
    """The fixture of the method card: a linear student of three classes, three samples, the second teacher is wrong."""

    x = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    teacher = torch.tensor([[2.0, 0, 0], [2.0, 0, 0], [0, 0, 2.0]], dtype=torch.float64)
    x_val = torch.tensor([[1.0, -1.0], [0.0, 2.0]], dtype=torch.float64)
    y_val = torch.tensor([0, 1])
    loss, gradient = 1.069347, [0.017002, 0.209100, -0.019441]  # checked by finite differences, in the card

    def __init__(self) -> None:
        self.student = nn.Linear(2, 3, bias=False).double()
        nn.init.zeros_(self.student.weight)
        self.alpha = torch.full((3,), 0.5, dtype=torch.float64, requires_grad=True)

    def inner(self, network: object) -> Tensor:
        log_s, log_t = network(self.x).log_softmax(1), self.teacher.log_softmax(1)
        kd = (log_t.exp() * (log_t - log_s)).sum(1)
        ce = F.nll_loss(log_s, self.y, reduction="none")
        return (self.alpha * kd + (1 - self.alpha) * ce).mean()

    def outer(self, network: object) -> Tensor:
        return F.cross_entropy(network(self.x_val), self.y_val)

    def gradient_of(self, order: Order, rate: float = 0.5) -> tuple[Tensor, Tensor]:
        loss = outer_loss(order, self.student, self.inner, self.outer, rate)
        return loss.detach(), torch.autograd.grad(loss, self.alpha)[0]


def test_the_unrolled_form_gives_the_numbers_of_the_card() -> None:
    loss, gradient = Card().gradient_of("unrolled")
    assert float(loss) == pytest.approx(Card.loss, abs=1e-6)
    assert gradient.tolist() == pytest.approx(Card.gradient, abs=1e-6)


def test_the_finite_difference_comes_near_it() -> None:
    loss, gradient = Card().gradient_of("finite_difference")
    assert float(loss) == pytest.approx(Card.loss, abs=1e-6)
    assert gradient.tolist() == pytest.approx(Card.gradient, abs=1e-5)


@pytest.mark.parametrize("order", ORDERS)
def test_the_three_forms_agree_in_direction(order: Order) -> None:
    _, gradient = Card().gradient_of(order)
    expected = torch.tensor(Card.gradient, dtype=torch.float64)
    assert float(F.cosine_similarity(gradient, expected, 0)) > 0.97
    assert gradient.argmax() == 1  # descent trusts the wrong teacher of the second sample less


def test_the_first_order_form_is_the_limit_of_small_steps() -> None:
    """Where the virtual step is short, the outer gradient at its end is the one at its start."""
    _, exact = Card().gradient_of("unrolled", rate=1e-5)
    _, expanded = Card().gradient_of("first_order", rate=1e-5)
    torch.testing.assert_close(expanded, exact, rtol=1e-4, atol=0)


@pytest.mark.parametrize("order", ORDERS)
def test_the_virtual_step_leaves_no_trace(order: Order) -> None:
    """Weights, gradients, running statistics, modes and the random state are what they were."""
    torch.manual_seed(0)
    student = nn.Sequential(nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Dropout(0.5), nn.Conv2d(3, 2, 1))
    image, label = torch.randn(4, 1, 3, 3), torch.randint(2, (4, 3, 3))
    weight = torch.tensor(0.5, requires_grad=True)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    state = torch.get_rng_state()
    loss = outer_loss(
        order, student,
        lambda network: weight * F.cross_entropy(network(image), label),
        lambda network: F.cross_entropy(network(image + 1), label),
        0.1,
    )  # fmt: skip
    loss.backward()
    assert weight.grad is not None
    assert weight.grad != 0
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert all(p.grad is None for p in student.parameters())
    assert torch.equal(torch.get_rng_state(), state)
    assert all(m.training for m in student.modules())


@pytest.mark.parametrize("order", ORDERS)
def test_every_evaluation_of_the_inner_loss_draws_the_same_dropout(order: Order) -> None:
    student = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 2))
    seen: list[Tensor] = []
    student[2].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0] == 0))
    weight = torch.tensor(1.0, requires_grad=True)
    image = torch.ones(5, 2)
    outer_loss(order, student, lambda n: weight * n(image).square().mean(), lambda n: n(image).mean(), 0.1)
    assert all(torch.equal(mask, seen[0]) for mask in seen)


def test_a_controller_that_the_inner_loss_ignores_gets_no_gradient() -> None:
    card = Card()
    other = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = outer_loss("unrolled", card.student, card.inner, card.outer, 0.5)
    assert torch.autograd.grad(loss, other, allow_unused=True) == (None,)


def test_the_step_length_scales_the_gradient() -> None:
    """d outer / d alpha is proportional to the rate where the outer gradient hardly moves."""
    one, two = (Card().gradient_of("first_order", rate)[1] for rate in (0.5, 1.0))
    torch.testing.assert_close(two, 2 * one)
    assert math.isfinite(float(two.sum()))
