"""Which weights of a phase are kept: a candidate's best on validation, and its last."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from torch import Tensor, nn


@dataclass
class Selection:
    """The weights of one phase's candidate: the best on validation, and the last; what travels beside them."""

    score: float = float("-inf")
    step: int = 0
    best: dict[str, Tensor] = field(default_factory=dict)
    last: dict[str, Tensor] = field(default_factory=dict)
    extras: dict[str, Tensor] = field(default_factory=dict)

    @property
    def scored(self) -> bool:
        """Whether a validation gave a score at all."""
        return self.score > float("-inf")

    def offer(self, network: nn.Module, score: float, step: int) -> None:
        """Keep the weights if they are better than all before; the first of equal ones stays, NaN never wins."""
        score = float("-inf") if math.isnan(score) else score
        if score > self.score or not self.best:
            self.score, self.step, self.best = score, step, snapshot(network)


def snapshot(network: nn.Module) -> dict[str, Tensor]:
    """A copy of the weights on the CPU."""
    return {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
