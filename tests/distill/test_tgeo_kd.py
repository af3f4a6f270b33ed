"""TGeo-KD against the invariants and fixtures of its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

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
    assert relation(s, g, t, m)[0, :, 0].tolist() == pytest.approx(squared, abs=1e-6)
    assert relation(s, g, t, m, "product")[0, 12:, 0].tolist() == pytest.approx(product, abs=1e-6)


def test_the_ratio_multiplies_pixel_by_pixel() -> None:
    """(B, 1) times (B,) would broadcast to (B, B): 0.75 instead of 1.35."""
    alpha, kd, ce = torch.tensor([0.9, 0.1]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])
    assert float(mixed(alpha, kd, ce).mean()) == pytest.approx(1.35)
    with pytest.raises(ValueError, match="must be alike"):
        mixed(alpha[:, None], kd, ce)


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
