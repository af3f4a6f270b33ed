"""What is trained when, and what one phase hands to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import nn

from medkd.engine.method import Batch, Method
from medkd.engine.options import Optimizer
from medkd.engine.task import Task

Networks = Callable[[int | str], nn.Module]
"""What a method is built around: networks(0) is the student, networks(1), ... further ones of its kind, and
networks("teacher") a trained network. 0 and names hold the weights that earlier phases handed over under them."""


class Stream(Protocol):
    """A data stream: the batch of a step is a pure function of the step, so nothing need be saved to resume it.

    It gives the whole batch of the step; each rank takes its slice. A stream that gives one rank's slice alone says so
    by the total of its draws.
    """

    def batch(self, global_step: int) -> Batch: ...


@dataclass(frozen=True)
class Phase:
    """One stage of training.

    candidate: which of the method's candidates is selected on validation and handed over.
    hand_over: its `best` validation weights or its `last`.
    becomes: what they are from then on. `student`: what the next phase's student starts from. Any other name, such as
    `teacher`: the network that later phases ask for by it.
    optimizers: of turns that have another optimiser than `optimizer`.
    carry_optimizer: start from the optimiser state of the phase before.
    networks, task: of this phase, where they are not those given to `fit`: a chain of tasks. A student with more
    outputs than what was handed over keeps the old ones; the others start as `networks` makes them.
    """

    name: str
    build: Callable[[Networks], Method]
    steps: int
    streams: Mapping[str, Stream]
    optimizer: Optimizer = field(default_factory=Optimizer)
    candidate: str = "student"
    hand_over: Literal["best", "last"] = "best"
    becomes: str = "student"
    carry_optimizer: bool = False
    validate_every: int = 200
    accumulate: int = 1
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    networks: Networks | None = None
    task: Task | None = None
