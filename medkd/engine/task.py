"""What a task is to a method and to `fit`. The task rooms implement it and hand it in."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn


class Task(Protocol):
    """`primary` names the validation score that selects a checkpoint; higher is better. Where there are no validation
    cases it is left out of the scores, and the last weights are kept."""

    primary: str

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        """The loss of a network's raw output against labels; float32, differentiable."""
        ...

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        """Scores of a network on the validation cases (`limit`: only so many). Restores the network's mode."""
        ...
