"""A problem small enough to follow by hand: two inputs, one output, a teacher. No images, no task room."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from medkd.engine.fit import PhaseRun
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.options import Optimizer
from medkd.engine.phases import Networks, Phase
from medkd.engine.randomness import Draws, generator, seeded
from medkd.engine.runtime import Runtime
from medkd.engine.teachers import EmaTeacher
from medkd.engine.tracking import Tracker

Poison = Mapping[int, Callable[[Tensor], Tensor]]


class Regression(Method):
    """Least squares with dropout, and a moving average. `poison[step](output)` is added to the loss of a step."""

    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, dropout: float = 0.25, poison: Poison | None = None):
        super().__init__()
        self.student, self.dropout, self.poison = student, dropout, poison or {}
        self.teacher = EmaTeacher(student, decay=0.5)
        self.real_steps: list[int] = []

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x = batch["labelled"]
        output = nn.functional.dropout(self.student(x.image).float(), self.dropout)
        loss = ctx.task.supervised_loss(output, x.labels)
        if ctx.step in self.poison:
            loss = loss + self.poison[ctx.step](output)
        return StepOutput(loss, {"output": output.detach().mean()})

    def after_step(self, ctx: StepContext) -> None:
        self.real_steps.append(ctx.step)
        self.teacher.update(self.student)

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher.network}


@dataclass
class Stream:
    """Pairs of x and the sum of x. Counts what it gave; raises `Interrupted` at the step `stop`."""

    size: int = 4
    stop: int | None = None
    given: list[int] = field(default_factory=list)

    def batch(self, global_step: int) -> Batch:
        if global_step == self.stop:
            raise Interrupted
        self.given.append(global_step)
        image = torch.randn(self.size, 2, generator=generator("data", global_step))
        ids = tuple(f"case{global_step}_{row}" for row in range(self.size))
        return Batch(image, image.sum(1, keepdim=True), ids, Draws((0, global_step, "labelled"), self.size))


class Interrupted(Exception):
    """Stands for a kill."""


@dataclass
class Task:
    """`scores`: what each evaluation returns, in turn; without it, minus the error on fixed data."""

    primary: str = "score"
    scores: list[float] = field(default_factory=list)
    limits: list[int | None] = field(default_factory=list)

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        return (output - label).square().mean()

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        self.limits.append(limit)
        if limit is None and self.scores:
            return {"score": self.scores.pop(0)}
        x = torch.tensor([[1.0, 2.0], [-1.0, 0.5]])
        with torch.no_grad():
            return {"score": -float((network(x) - x.sum(1, keepdim=True)).square().mean())}


def network(index: int) -> nn.Module:
    with seeded("network", index):
        return nn.Linear(2, 1)


def build(networks: Networks) -> Regression:
    return Regression(networks(0))


CPU = Runtime(torch.device("cpu"))


def phase(name: str = "only", steps: int = 4, stream: Stream | None = None, **values: Any) -> Phase:
    """A phase of the toy problem; keywords replace its fields."""
    options = {"build": build, "optimizer": Optimizer(lr=0.05, weight_decay=0.0), "validate_every": 100} | values
    return Phase(name=name, steps=steps, streams={"labelled": stream or Stream()}, **options)


def phase_run(made: Phase, runtime: Runtime = CPU) -> PhaseRun:
    """The phase at its first step, to be stepped by hand."""
    return PhaseRun(made, network, Task(), runtime, 0, Tracker(), {}, {}, 0)


def equal_trees(a: Any, b: Any) -> bool:
    """Whether two states are the same bit for bit, NaN included."""
    if isinstance(a, Tensor):
        same = isinstance(b, Tensor) and a.dtype == b.dtype and a.shape == b.shape
        return same and a.reshape(-1).view(torch.uint8).equal(b.reshape(-1).view(torch.uint8))
    if isinstance(a, dict):
        return list(a) == list(b) and all(equal_trees(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(equal_trees, a, b))
    return type(a) is type(b) and repr(a) == repr(b)
