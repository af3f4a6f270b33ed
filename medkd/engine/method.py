"""What a method is: a module that owns its student, its teachers and its state, and knows how to take one step.

`fit` calls, in this order: `step` (reads top to bottom as the paper's algorithm does), backward, the optimiser,
`after_step`. `state_dict` is the whole truth: a method restored from it continues exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from medkd.engine.randomness import Draws, generator
from medkd.engine.runtime import ONE_PROCESS, Runtime
from medkd.engine.task import Task

if TYPE_CHECKING:
    from medkd.engine.phases import Stream


@dataclass(frozen=True)
class Batch:
    """Samples of one stream, on the training device.

    image: (B, C, *S) float. label: int64, (B, *S) of voxels or (B,) of images; or a sequence of B things of the task's
    own, such as boxes; or None in a stream without labels.
    view: the random parameters of the view that was drawn, each (B, ...): both sides of a pair read the same one.
    draws: random numbers keyed by the global index of each sample.
    """

    image: Tensor
    label: Tensor | Sequence[Any] | None
    case_ids: tuple[str, ...]
    draws: Draws
    view: Mapping[str, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.image)

    @property
    def labels(self) -> Tensor:
        """The labels of a stream that has them as a tensor; an error, never a silent None, where it has not."""
        label = self.targets
        if not isinstance(label, Tensor):
            raise ValueError(f"the labels of this stream are a {type(label).__name__}, not a tensor: read `targets`")
        return label

    @property
    def targets(self) -> Tensor | Sequence[Any]:
        """The labels of a stream that has them, whatever they are: B rows."""
        if self.label is None:
            raise ValueError("this stream carries no labels: the method must not read them")
        return self.label

    def with_image(self, image: Tensor) -> Batch:
        """The same samples with their images laid out differently."""
        return replace(self, image=image)

    def micro(self, part: int, parts: int) -> Batch:
        """The `part`-th of `parts` equal micro-batches."""
        if parts == 1:
            return self
        if len(self) % parts:
            raise ValueError(f"a batch of {len(self)} does not split into {parts} equal micro-batches")
        n = len(self) // parts
        rows = slice(part * n, (part + 1) * n)
        return Batch(
            image=self.image[rows],
            label=None if self.label is None else self.label[rows],
            case_ids=self.case_ids[rows],
            draws=Draws(self.draws.scope, n, self.draws.start + part * n, self.draws.total or len(self)),
            view={name: value[rows] for name, value in self.view.items()},
        )


@dataclass(frozen=True)
class StepContext:
    """Where training stands. `step` counts the updates completed in this phase, of `total`; `seed` keys randomness."""

    step: int
    total: int
    global_step: int
    seed: int
    task: Task
    runtime: Runtime = ONE_PROCESS

    def global_sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks: a loss that divides one global sum by another is the whole batch's.

        Without gradient for counts; with it, the mean of the ranks' gradients is the gradient of the whole.
        """
        return self.runtime.global_sum(values)

    def global_mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks of a tensor without gradient."""
        return self.runtime.global_mean(values)

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator for what one iteration shares whatever its micro-batch or rank (one mask per iteration)."""
        return generator(self.seed, self.global_step, name)


@dataclass(frozen=True)
class StepOutput:
    """`loss`: a scalar with a graph. `logs`: detached scalars; the engine reads them only when it writes a row."""

    loss: Tensor
    logs: Mapping[str, Tensor] = field(default_factory=dict)


class Method(nn.Module):
    """Base of every method. A subclass states `turns` and `reads` and writes `step`."""

    turns: tuple[str, ...] = ("student",)
    """Optimiser turns of one iteration, in order; each distinct name has its own optimiser."""
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}
    """The data streams each turn reads."""

    student: nn.Module

    def prepare(self, streams: Mapping[str, Stream]) -> None:
        """What the method must know of its data: called once, before its optimisers are made and its state restored."""

    def trainable(self, turn: str) -> list[nn.Parameter]:
        """The parameters the turn's optimiser owns."""
        return [p for p in self.student.parameters() if p.requires_grad]

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        """The loss of one turn on one micro-batch."""
        raise NotImplementedError(f"{type(self).__name__} does not implement step")

    def after_step(self, ctx: StepContext) -> None:
        """Moving averages, banks, curricula. Runs under no_grad, and only after a real optimiser step."""

    def candidates(self) -> dict[str, nn.Module]:
        """What can be evaluated and shipped, by name."""
        return {"student": self.student}

    def extras(self) -> dict[str, Tensor]:
        """What travels beside the shipped weights, by name, as it is at the end of the phase: small tables."""
        return {}
