"""TGeo-KD against the invariants and fixtures of its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from medkd.distill.methods.tgeo_kd import TrilateralGeometry, mixed, relation
from medkd.distill.tgeo_kd_options import TgeoKdOptions
from medkd.engine.fit import PhaseRun
from medkd.engine.method import Batch, StepContext
from medkd.engine.options import Optimizer
from medkd.engine.phases import Phase
from medkd.engine.randomness import Draws, generator, seeded
from medkd.engine.runtime import ONE_PROCESS
from medkd.engine.tracking import Tracker
from medkd.errors import InputError

K = 3


class Task:
    """TGeo-KD needs no task loss: the ratio weighs pixel losses of its own."""

    primary = "score"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        raise AssertionError("not used")

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"score": 0.0}


class Stream:
    def __init__(self, name: str):
        self.name = name

    def batch(self, step: int) -> Batch:
        g = generator(self.name, step)
        label = torch.randint(K, (4, 6, 6), generator=g)
        image = label[:, None].float() + 0.3 * torch.randn(4, 1, 6, 6, generator=g)
        return Batch(image, label, tuple(f"{self.name}{i}" for i in range(4)), Draws((0, step, self.name), 4))


def network(which: int | str) -> nn.Module:
    with seeded("network", which):
        return nn.Sequential(nn.Conv2d(1, 8, 1), nn.LeakyReLU(), nn.Conv2d(8, K, 1))


def run(steps: int = 5, lr: float = 0.1, **values: object) -> PhaseRun:
    options = TgeoKdOptions(classes=K, **values)
    made = Phase(
        "distil", options.build, steps, {name: Stream(name) for name in options.needs},
        Optimizer(lr=lr, weight_decay=0.0), optimizers={"controller": Optimizer(kind="adam", lr=0.01, weight_decay=0)},
    )  # fmt: skip
    return PhaseRun(made, network, Task(), ONE_PROCESS, 0, Tracker(), {}, {}, 0)


def batches(step: int = 0) -> Mapping[str, Batch]:
    return {name: Stream(name).batch(step) for name in ("labelled", "held_out")}


CONTEXT = StepContext(0, 5, 0, 0, Task())


@pytest.mark.parametrize("order", ["unrolled", "finite_difference", "first_order"])
def test_the_controller_learns_from_the_held_out_loss(order: str) -> None:
    """The released code computes the ratio under no_grad: its controller has no gradient and never changes."""
    trained = run(order=order)
    method = trained.method
    method.step("controller", batches(), CONTEXT).loss.backward()
    gradients = [p.grad for p in method.controller.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)
    assert all(p.grad is None for p in method.student.parameters())
    before = [p.detach().clone() for p in method.controller.parameters()]
    for _ in range(3):
        trained.train_one()
    assert all(not torch.equal(a, b) for a, b in zip(before, method.controller.parameters()))


def test_the_held_out_images_reach_the_controller_and_not_the_student() -> None:
    gradients = []
    for other in (batches(), {**batches(), "held_out": Stream("held_out").batch(9)}):
        method = run().method
        for turn in method.turns:
            method.step(turn, other, CONTEXT).loss.backward()
        gradients.append({name: p.grad for name, p in method.named_parameters() if p.grad is not None})
    assert all(
        torch.equal(gradients[0][name], gradients[1][name]) == name.startswith("student") for name in gradients[0]
    )


def test_the_student_turn_gives_the_controller_no_gradient() -> None:
    method = run().method
    method.step("student", batches(), CONTEXT).loss.backward()
    assert all(p.grad is None for p in method.controller.parameters())
    assert all(p.grad is not None for p in method.student.parameters())


def test_the_student_sees_no_held_out_patient() -> None:
    assert run().method.reads["student"] == ("labelled",)


def test_the_relation_vectors_of_the_card() -> None:
    def pixel(*values: float) -> Tensor:
        return torch.tensor(values).reshape(1, 3, 1)

    s, t, g, m = pixel(0.6, 0.3, 0.1), pixel(0.7, 0.2, 0.1), pixel(1, 0, 0), pixel(0.8, 0.1, 0.1)
    squared = [
        *(0.6, 0.3, 0.1, 0.7, 0.2, 0.1, 1, 0, 0, 0.8, 0.1, 0.1),
        *(0.04, 0.04, 0, 0.16, 0.09, 0.01, 0.01, 0.01, 0, 0.09, 0.04, 0.01, 0.04, 0.01, 0.01),
    ]
    product = [
        *(0.4, 0.3, 0.1, 0.1, 0.1, 0, 0.2, 0.2, 0),
        *(0.08, 0.03, 0.01, 0.12, 0.06, 0.01),
    ]
    assert relation(s, g, t, m).shape[1] == relation(s, g, t, m, "product").shape[1] == 27
    assert run().method.controller[0].in_features == 9 * K
    assert relation(s, g, t, m)[0, :, 0].tolist() == pytest.approx(squared, abs=1e-6)
    assert relation(s, g, t, m, "product")[0, 12:, 0].tolist() == pytest.approx(product, abs=1e-6)


def test_the_ratio_multiplies_pixel_by_pixel() -> None:
    """(B, 1) times (B,) would broadcast to (B, B): 0.75 instead of 1.35."""
    alpha, kd, ce = torch.tensor([0.9, 0.1]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    assert float(mixed(alpha, kd, ce).mean()) == pytest.approx(1.35)
    assert float((alpha[:, None] * kd + (1 - alpha[:, None]) * ce).mean()) == pytest.approx(0.75)
    with pytest.raises(ValueError, match="must be alike"):
        mixed(alpha[:, None], kd, ce)


class Said(nn.Module):
    """Gives the same output whatever it sees: a teacher's logits, or a ratio's."""

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = nn.Parameter(output)

    def forward(self, seen: Tensor) -> Tensor:
        return self.output


class OfTheCard:
    """The linear student of the card's hypergradient, in the method itself; the second teacher row is wrong."""

    x = torch.tensor([[1.0, 0], [0, 1], [1, 1]], dtype=torch.float64)
    y = torch.tensor([0, 1, 2])
    teacher = torch.tensor([[2.0, 0, 0], [2, 0, 0], [0, 0, 2]], dtype=torch.float64)
    x_val = torch.tensor([[1.0, -1], [0, 2]], dtype=torch.float64)
    y_val = torch.tensor([0, 1])

    def __init__(self, **values: object):
        options = TgeoKdOptions(classes=3, inner_rate=0.5, **values)
        with seeded("card"):
            self.method = TrilateralGeometry(nn.Linear(2, 3, bias=False), Said(self.teacher), options).double()
        self.weight = self.method.student.weight

    def loss(self, turn: str) -> Tensor:
        batch = {
            name: Batch(image, label, tuple(map(str, range(len(label)))), Draws((0, name), len(label)))
            for name, image, label in (("labelled", self.x, self.y), ("held_out", self.x_val, self.y_val))
        }
        return self.method.step(turn, batch, CONTEXT).loss

    def gradients(self) -> tuple[Tensor, Tensor]:
        """(B, K, 2) twice: of tau^2 KL(T || S) and of the cross-entropy of each sample, as formulas in the weights."""
        s, tau = self.x @ self.weight.detach().T, self.method.options.temperature
        kd = tau * ((s / tau).softmax(1) - (self.teacher / tau).softmax(1))
        ce = s.softmax(1) - torch.eye(3, dtype=torch.float64)[self.y]
        return kd[:, :, None] * self.x[:, None], ce[:, :, None] * self.x[:, None]


@pytest.mark.parametrize("order", ["unrolled", "finite_difference"])
def test_the_hypergradient_of_the_card(order: str) -> None:
    """The released draft trains its controller to lower alpha KD + (1 - alpha) CE: that is another number."""
    card = OfTheCard(temperature=1.0, order=order)
    nn.init.zeros_(card.weight)
    card.method.controller = Said(torch.zeros(3, 1, dtype=torch.float64))  # alpha = 1/2
    loss = card.loss("controller")
    assert loss.item() == pytest.approx(1.069347, abs=1e-6)
    loss.backward()
    by_alpha = card.method.controller.output.grad[:, 0] / 0.25  # the slope of the sigmoid at 0
    assert by_alpha.tolist() == pytest.approx([0.017002, 0.209100, -0.019441], abs=1e-5)


@pytest.mark.parametrize(("order", "rtol"), [("unrolled", 1e-9), ("finite_difference", 1e-3)])
def test_the_controllers_gradient_is_the_closed_form(order: str, rtol: float) -> None:
    """d CE_val / d alpha_i = -(eta/B) <grad CE_val(theta'), grad KD_i - grad CE_i>, S in the relation a constant.

    With the student's own gradient through S, or S of the moved weights, alpha_i would have a second effect.
    """
    card = OfTheCard(order=order)
    alpha = card.method.controller(card_vectors(card))[:, 0].sigmoid()
    kd, ce = card.gradients()
    step = (alpha.detach()[:, None, None] * kd + (1 - alpha.detach())[:, None, None] * ce).mean(0)
    after = (card.weight.detach() - 0.5 * step).requires_grad_()
    held_out = nn.functional.cross_entropy(card.x_val @ after.T, card.y_val)
    (direction,) = torch.autograd.grad(held_out, after)
    by_alpha = -(0.5 / 3) * (direction * (kd - ce)).sum((1, 2))
    parameters = list(card.method.controller.parameters())
    expected = torch.autograd.grad((alpha * by_alpha).sum(), parameters)

    loss = card.loss("controller")
    assert loss.item() == pytest.approx(held_out.item(), abs=1e-12)
    for found, wanted in zip(torch.autograd.grad(loss, parameters), expected):
        torch.testing.assert_close(found, wanted, rtol=rtol, atol=rtol * float(wanted.abs().max()))


def card_vectors(card: OfTheCard) -> Tensor:
    """Before the first step, when no class has been seen."""
    s, t = (card.x @ card.weight.detach().T).softmax(1), card.teacher.softmax(1)
    return relation(s, torch.eye(3, dtype=torch.float64)[card.y], t, card.method.class_means[card.y])


def test_the_students_loss_is_the_formula() -> None:
    """With tau^2 on the divergence, and the cross-entropy of logits: the released code softmaxes them twice."""
    card = OfTheCard(temperature=1.5)
    ratio = torch.tensor([0.9, 0.1, 0.6], dtype=torch.float64)
    card.method.controller = Said(ratio.logit()[:, None])
    s = (card.x @ card.weight.detach().T).numpy()
    p, q = (np.exp(z) / np.exp(z).sum(1, keepdims=True) for z in (card.teacher.numpy() / 1.5, s / 1.5))
    kd = 1.5**2 * (p * np.log(p / q)).sum(1)
    ce = np.log(np.exp(s).sum(1)) - s[[0, 1, 2], card.y.numpy()]
    assert card.loss("student").item() == pytest.approx(float((ratio.numpy() * kd + (1 - ratio.numpy()) * ce).mean()))


def test_the_controllers_turn_moves_nothing_but_its_gradient() -> None:
    """Neither the class means nor a teacher, nor the student, whose step is only tried out."""
    method = run().method
    before = {name: value.clone() for name, value in method.state_dict().items() if isinstance(value, Tensor)}
    method.step("controller", batches(), CONTEXT).loss.backward()
    assert all(torch.equal(method.state_dict()[name], value) for name, value in before.items())
    assert float(method.counts.sum()) == 0


@pytest.mark.parametrize(("bias", "log"), [(30.0, "loss_distillation"), (-30.0, "loss_labelled")])
def test_a_ratio_of_one_is_distillation_alone_and_of_zero_the_labels_alone(bias: float, log: str) -> None:
    method = run().method
    nn.init.zeros_(method.controller[-1].weight)
    nn.init.constant_(method.controller[-1].bias, bias)
    output = method.step("student", batches(), CONTEXT)
    torch.testing.assert_close(output.loss.detach(), output.logs[log])


def test_the_ratio_does_not_see_a_constant_added_to_the_logits() -> None:
    logs = []
    for shift in (0.0, 7.0):
        method = run().method
        with torch.no_grad():
            method.student[-1].bias += shift
        logs.append(method.step("student", batches(), CONTEXT).logs["alpha"])
    torch.testing.assert_close(*logs)
    assert 0 < float(logs[0]) < 1


def test_the_class_means_are_those_of_the_teacher_on_the_training_pixels_seen() -> None:
    trained = run()
    for _ in range(3):
        trained.train_one()
    method = trained.method
    labelled = [Stream("labelled").batch(step) for step in range(3)]
    probabilities = torch.cat([method.teacher(b.image).softmax(1).movedim(1, -1) for b in labelled])
    label = torch.cat([b.labels for b in labelled])
    for k in range(K):
        torch.testing.assert_close(method.class_means[k], probabilities[label == k].mean(0))
    torch.testing.assert_close(method.class_means.sum(1), torch.ones(K))


def test_a_wrong_number_of_classes_is_an_input_error() -> None:
    method = TrilateralGeometry(network(0), network("teacher"), TgeoKdOptions(classes=4))
    with pytest.raises(InputError, match=r"tgeo_kd\.classes is 4, but the networks tell 3 classes apart"):
        method.step("student", batches(), CONTEXT)


class Corrupt(nn.Module):
    """A teacher that is right on the left half of every image and calls a wrong class with confidence on the right."""

    def forward(self, image: Tensor) -> Tensor:
        label = image[:, 0].round().clamp(0, K - 1).long()
        label = torch.cat([label[..., :3], (label[..., 3:] + 1) % K], -1)
        return 6 * nn.functional.one_hot(label, K).movedim(-1, 1).float()


class WrongLeft(Stream):
    """Half of the labels on the left half are drawn at random."""

    def batch(self, step: int) -> Batch:
        batch, g = super().batch(step), generator("wrong", step)
        wrong = torch.rand(4, 6, 6, generator=g) < 0.5
        wrong[..., 3:] = False
        return replace(batch, label=torch.where(wrong, torch.randint(K, (4, 6, 6), generator=g), batch.labels))


def test_the_controller_learns_whom_to_trust() -> None:
    """Where the labels are noisy and the teacher right it trusts the teacher more than where it is the other way."""
    trained = run(80, lr=0.5, inner_rate=0.5)
    trained.phase.streams["labelled"] = WrongLeft("labelled")
    method = trained.method
    method.teacher.network = Corrupt()
    seen: list[Tensor] = []
    method.controller.register_forward_hook(lambda _, __, output: seen.append(output[..., 0].sigmoid().detach()))
    for _ in range(80):
        trained.train_one()
    left, right = float(seen[-1][..., :3].mean()), float(seen[-1][..., 3:].mean())
    assert abs(float(seen[0][..., :3].mean() - seen[0][..., 3:].mean())) < 0.05
    assert left > 5 * right, (left, right)
