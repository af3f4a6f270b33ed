"""A problem small enough to follow by hand: two inputs, one output, a teacher. The engine knows no task; nor does this."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.options import Optimizer
from medkd.engine.phases import Networks, Phase
from medkd.engine.randomness import Draws, generator, seeded
from medkd.engine.runtime import Runtime
from medkd.engine.teachers import EmaTeacher


class Regression(Method):
    """Least squares with dropout, and a moving average. `poison` is added to the loss at the steps it names."""

    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, poison: Mapping[int, Tensor] | None = None):
        super().__init__()
        self.student, self.poison = student, poison or {}
        self.teacher = EmaTeacher(student, decay=0.5)
        self.real_steps: list[int] = []

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x = batch["labelled"]
        output = nn.functional.dropout(self.student(x.image), 0.25)
        loss = ctx.task.supervised_loss(output, x.labels)
        return StepOutput(loss + self.poison.get(ctx.step, 0.0) * output.sum(), {"output": output.detach().mean()})

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


@pytest.fixture
def phase() -> Callable[..., Phase]:
    """A phase of the toy problem; keywords replace its fields."""

    def make(name: str = "only", steps: int = 4, stream: Stream | None = None, **values: Any) -> Phase:
        options = {"build": build, "optimizer": Optimizer(lr=0.05, weight_decay=0.0), "validate_every": 100} | values
        return Phase(name=name, steps=steps, streams={"labelled": stream or Stream()}, **options)

    return make


@pytest.fixture
def toy() -> Any:
    """The names of this file, for the tests beside it."""

    class Names:
        pass

    names = Names()
    for cls in (Regression, Stream, Task, Interrupted):
        setattr(names, cls.__name__, cls)
    names.network, names.cpu = staticmethod(network), CPU  # type: ignore[attr-defined]
    return names
