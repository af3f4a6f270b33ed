"""Small parts every test of this room uses: a task without data, networks of a few kilobytes, random batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from medkd.engine.method import Batch, StepContext
from medkd.engine.randomness import Draws, generator, seeded
from medkd.networks.options import BasicUNetOptions
from medkd.segmentation.losses import DiceCE


@dataclass(frozen=True)
class FakeTask:
    """The real supervised loss; no data, so every network scores the same."""

    primary: str = "dice"
    supervised_loss: Callable[[Tensor, Tensor], Tensor] = field(default_factory=DiceCE)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"dice": 0.5}


class Stored(nn.Module):
    """A network or a teacher that answers every image with the logits it was given, and keeps what it saw."""

    def __init__(self, answer: Tensor | Callable[[Tensor], Tensor]):
        super().__init__()
        self.answer, self.seen = answer, []

    def forward(self, image: Tensor) -> Tensor:
        self.seen.append(image)
        return self.answer if isinstance(self.answer, Tensor) else self.answer(image)

    def update(self, student: nn.Module) -> None:
        pass


@pytest.fixture
def stored() -> type[Stored]:
    return Stored


@pytest.fixture
def task() -> FakeTask:
    return FakeTask()


@pytest.fixture
def context(task: FakeTask) -> Callable[..., StepContext]:
    def make(step: int = 0, total: int = 100, task: FakeTask = task) -> StepContext:
        return StepContext(step, total, step, seed=0, task=task)

    return make


@pytest.fixture
def unet() -> Callable[..., nn.Module]:
    """unet(0), unet(1), ...: the networks of a method, always with the same weights for the same index."""

    def make(index: int = 0, dims: int = 2, classes: int = 3, dropout: float = 0.0) -> nn.Module:
        with seeded("network", index):
            options = BasicUNetOptions(features=(4, 4, 8, 8, 8), dropout=(dropout,))
            return options.build(dims, 1, classes, (16,) * dims)

    return make


@pytest.fixture
def batches() -> Callable[..., dict[str, Batch]]:
    """Both streams of one step. The unlabelled one carries no labels, so a method that read them would fail."""

    def make(size: int = 4, dims: int = 2, classes: int = 3, pixels: int = 16, step: int = 0) -> dict[str, Batch]:
        result = {}
        for stream in ("labelled", "unlabelled"):
            g = generator("batch", stream, step)
            image = torch.rand(size, 1, *[pixels] * dims, generator=g)
            label = torch.randint(classes, (size, *[pixels] * dims), generator=g) if stream == "labelled" else None
            names = tuple(f"{stream}{i}" for i in range(size))
            result[stream] = Batch(image, label, names, Draws((0, step, stream), size))
        return result

    return make
