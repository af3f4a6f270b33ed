"""Teachers. A kind arrives with the first method that uses it."""

from __future__ import annotations

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from medkd.engine.schedules import ema_warmup

BufferPolicy = Literal["copy", "blend", "own"]


class EmaTeacher(nn.Module):
    """The moving average of a student: teacher = decay * teacher + (1 - decay) * student, after every real step.

    decay: weight of the OLD teacher. warmup: use min(1 - 1/(k+1), decay) at the k-th update.
    buffers: what happens to the running statistics of normalisation layers: `copy` the student's, `blend` them like
    parameters, or leave the teacher its `own`. Integer buffers are copied in the first two, never averaged.
    mode: the teacher runs in `eval` (deterministic targets) or in `train` (dropout active, batch statistics).
    No gradient reaches it. The average is kept in the student's parameter precision, float32 under autocast.
    """

    def __init__(
        self,
        student: nn.Module,
        decay: float = 0.99,
        warmup: bool = False,
        buffers: BufferPolicy = "copy",
        mode: Literal["eval", "train"] = "eval",
    ):
        super().__init__()
        self.decay, self.warmup, self.buffer_policy, self.mode = decay, warmup, buffers, mode
        self.network = copy.deepcopy(student).requires_grad_(False)
        self.updates = 0
        self.train()

    def train(self, mode: bool = True) -> EmaTeacher:
        """The teacher's mode is its own: putting the method in train mode does not change it."""
        super().train(self.mode == "train")
        return self

    @torch.no_grad()
    def forward(self, image: Tensor) -> Tensor:
        output: Tensor = self.network(image)
        return output

    @torch.no_grad()
    def update(self, student: nn.Module) -> None:
        """One step of the average."""
        decay = ema_warmup(self.updates, self.decay) if self.warmup else self.decay
        self.updates += 1
        blend(list(self.network.parameters()), list(student.parameters()), decay)
        if self.buffer_policy == "own":
            return
        mine, theirs = list(self.network.buffers()), list(student.buffers())
        floating = [m.is_floating_point() and self.buffer_policy == "blend" for m in mine]
        blend([m for m, f in zip(mine, floating) if f], [t for t, f in zip(theirs, floating) if f], decay)
        for m, t, f in zip(mine, theirs, floating):
            if not f:
                m.copy_(t)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)


def blend(old: list[Tensor], new: list[Tensor], decay: float) -> None:
    """old <- decay * old + (1 - decay) * new, in place, in one fused call. decay 1 keeps old, decay 0 copies new."""
    if not old or decay == 1.0:
        return
    if decay == 0.0:  # lerp would give old + (new - old), which rounds
        torch._foreach_copy_(old, new)
    else:
        torch._foreach_lerp_(old, new, 1.0 - decay)
