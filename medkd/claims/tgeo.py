"""The experiment of the card of TGeo-KD: a teacher that is confidently wrong on a third of the training samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.claims.small import SmallClaim, Statement
from medkd.distill.losses.shared import softened_kl
from medkd.distill.methods.tgeo_kd import TrilateralGeometry, mixed
from medkd.distill.tgeo_kd_options import TgeoKdOptions
from medkd.engine.fit import fit
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.options import Optimizer
from medkd.engine.phases import Networks, Phase
from medkd.engine.randomness import Draws, generator, seeded
from medkd.engine.runtime import ONE_PROCESS
from medkd.engine.teachers import FrozenTeacher

CLASSES, DIM, SPREAD = 4, 20, 0.45
TRAIN, HELD_OUT, TEST = 160, 80, 2000
WRONG = 0.35
STEPS, RATE = 600, 0.5
OPTIONS = TgeoKdOptions(classes=CLASSES, inner_rate=RATE)


class Student(nn.Module):
    """Linear in the first DIM columns; the last one marks the samples on which the teacher is wrong."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(DIM, CLASSES)

    def forward(self, samples: Tensor) -> Tensor:
        output: Tensor = self.linear(samples[:, :DIM])
        return output


class Teacher(nn.Module):
    """The true log posterior, moved to the next class for marked samples."""

    def __init__(self, means: Tensor):
        super().__init__()
        self.means: Tensor
        self.register_buffer("means", means)

    def forward(self, samples: Tensor) -> Tensor:
        logits = -0.5 * torch.cdist(samples[:, :DIM], self.means).square()
        return logits.where(samples[:, DIM:] == 0, logits.roll(1, 1))


class FixedRatio(Method):
    """alpha KD + (1 - alpha) CE with one alpha for all samples."""

    def __init__(self, student: nn.Module, teacher: nn.Module, alpha: float):
        super().__init__()
        self.student, self.teacher, self.alpha = student, FrozenTeacher(teacher), alpha

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x, tau = batch["labelled"], OPTIONS.temperature
        logits = self.student(x.image)
        kd = tau**2 * softened_kl(logits, self.teacher(x.image), tau)
        ce = F.cross_entropy(logits, x.labels, reduction="none")
        return StepOutput(mixed(torch.full_like(kd, self.alpha), kd, ce).mean())


class Joint(TrilateralGeometry):
    """The controller trained with the student on the training loss, as the published CIFAR code does."""

    turns: tuple[str, ...] = ("student",)
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return [*self.student.parameters(), *self.controller.parameters()]

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        image, label = batch["labelled"].image, batch["labelled"].labels
        student, teacher = self.student(image), self.teacher(image)
        self.gather(teacher, label, ctx)
        return StepOutput(self.fused(self.ratio(self.vectors(student, teacher, label)), student, teacher, label)[0])


@dataclass(frozen=True)
class Whole:
    """A stream that gives all its samples in every step."""

    name: str
    samples: Tensor
    labels: Tensor

    def batch(self, global_step: int) -> Batch:
        ids = tuple(f"{self.name}{row}" for row in range(len(self.samples)))
        return Batch(self.samples, self.labels, ids, Draws((0, global_step, self.name), len(ids)))


@dataclass
class Accuracy:
    """On the test samples; nothing is chosen by it: the last weights count."""

    samples: Tensor
    labels: Tensor
    primary: str = "accuracy"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(output, label)

    @torch.no_grad()
    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"accuracy": float((network(self.samples).argmax(1) == self.labels).float().mean())}


ARMS: dict[str, Callable[[Networks], Method]] = {
    "labels": lambda networks: FixedRatio(networks(0), networks("teacher"), 0.0),
    "teacher alone": lambda networks: FixedRatio(networks(0), networks("teacher"), 1.0),
    "fixed": lambda networks: FixedRatio(networks(0), networks("teacher"), 0.5),
    "joint": lambda networks: Joint(networks(0), networks("teacher"), OPTIONS),
    "bilevel": OPTIONS.build,
}


def run(seed: int) -> dict[str, dict[str, float]]:
    g = generator("tgeo", seed)
    means = SPREAD * torch.randn(CLASSES, DIM, generator=g)

    def draw(count: int) -> tuple[Tensor, Tensor]:
        y = torch.arange(count) % CLASSES
        marked = (torch.rand(count, 1, generator=g) < WRONG).float()
        return torch.cat([means[y] + torch.randn(count, DIM, generator=g), marked], 1), y

    train, held_out, test = draw(TRAIN), draw(HELD_OUT), Accuracy(*draw(TEST))
    streams = {"labelled": Whole("labelled", *train), "held_out": Whole("held_out", *held_out)}

    def networks(which: int | str) -> nn.Module:
        with seeded("tgeo", seed, which):
            return Teacher(means) if which == "teacher" else Student()

    scores: dict[str, dict[str, float]] = {}
    for arm, build in ARMS.items():
        ratios: list[Tensor] = []

        def watched(
            given: Networks, build: Callable[[Networks], Method] = build, seen: list[Tensor] = ratios
        ) -> Method:
            method = build(given)
            if isinstance(method, TrilateralGeometry):
                method.controller.register_forward_hook(lambda _m, _i, output: seen.append(output[:, 0].detach()))
            return method

        phase = Phase(
            "distil", watched, STEPS, streams, Optimizer(lr=RATE, momentum=0.0, weight_decay=0.0),
            validate_every=STEPS, optimizers={"controller": Optimizer(kind="adam", lr=0.01, weight_decay=0.0)},
        )  # fmt: skip
        student = Student()
        student.load_state_dict(fit([phase], networks, test, ONE_PROCESS, seed).last)
        scores[arm] = test.evaluate(student)
        wrong = train[0][:, DIM] > 0
        if ratios:
            alpha = ratios[-1].sigmoid()
            scores[arm] |= {"right": float(alpha[~wrong].mean()), "wrong": float(alpha[wrong].mean())}
        else:
            scores[arm]["right"] = scores[arm]["wrong"] = {"labels": 0.0, "teacher alone": 1.0, "fixed": 0.5}[arm]
        scores[arm]["trust"] = scores[arm]["right"] - scores[arm]["wrong"]
    return scores


CLAIM = SmallClaim(
    setting=(
        f"*Setting:* {CLASSES} overlapping Gaussian classes in {DIM} dimensions, {TRAIN} training samples, {HELD_OUT} "
        f"held-out ones that only the controller reads, {TEST} test samples. The teacher is the true posterior, moved "
        f"to a wrong class on {WRONG:.0%} of the samples; nothing tells the student which. The student is linear, "
        f"trained for {STEPS} full-batch steps; the controller by Adam without weight decay, as in "
        "configs/segmentation/tgeo_kd.yaml. *Joint*: the controller learns from the training loss with the student, as "
        "the published CIFAR code does; *bilevel*: through a virtual step, on held-out samples. **Second version:** in "
        "the first (lines of version 1, 6 seeds) the controller had the weight decay of the released code, 0.05; its "
        "gradients are far smaller than that, it became constant (mean alpha 0.439 for both groups), and bilevel over "
        "fixed was +0.009 accuracy. Seeds 6 to 11 were first run with this version. The "
        "published tables come from code that the card finds faulty."
    ),
    arms={
        "labels": "alpha 0",
        "teacher alone": "alpha 1",
        "fixed": "alpha 0.5",
        "joint": "",
        "bilevel": "TGeo-KD",
    },
    metrics={
        "accuracy": "test accuracy",
        "right": "mean alpha, teacher right",
        "wrong": "mean alpha, teacher wrong",
        "trust": "difference of these two",
    },
    lower=frozenset({"wrong"}),
    statements=(
        Statement("bilevel", "fixed", "accuracy"),
        Statement("bilevel", "fixed", "trust"),
        Statement("bilevel", "joint", "accuracy", claimed=False),
        Statement("bilevel", "joint", "trust", claimed=False),
        Statement("bilevel", "labels", "accuracy", claimed=False),
    ),
    run=run,
    seeds=12,
    version=2,
)
