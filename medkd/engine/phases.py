"""What is trained when, and what one phase hands to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import nn

from medkd.engine.method import Batch, Method
from medkd.engine.options import Optimizer

Networks = Callable[[int], nn.Module]
"""Networks(i) makes the i-th network of a method: 0 is the student, with the weights the last phase handed over."""


class Stream(Protocol):
    """A data stream: the batch of a step is a pure function of the step, so nothing need be saved to resume it."""

    def batch(self, global_step: int) -> Batch: ...


@dataclass(frozen=True)
class Phase:
    """One stage of training.

    candidate: which of the method's candidates is selected on validation and handed over.
    hand_over: its `best` validation weights or its `last`.
    carry_optimizer: start from the optimiser state of the phase before.
    """

    name: str
    build: Callable[[Networks], Method]
    steps: int
    streams: Mapping[str, Stream]
    optimizer: Optimizer = field(default_factory=Optimizer)
    candidate: str = "student"
    hand_over: Literal["best", "last"] = "best"
    carry_optimizer: bool = False
    validate_every: int = 200
    accumulate: int = 1
