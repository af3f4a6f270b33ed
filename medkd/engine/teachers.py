"""Teachers. A kind arrives with the first method that uses it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from medkd.engine.checkpoint import fingerprint
from medkd.engine.method import Batch
from medkd.engine.schedules import ema_warmup
from medkd.errors import InputError

TEACHER_IMAGE, TEACHER_LOGITS = "teacher_image", "teacher_logits"
"""Entries of a batch's view: the images as the teacher wants them, and what it once said of them."""
BufferPolicy = Literal["copy", "blend", "own"]
Decay = float | Callable[[int], float]


class EmaTeacher(nn.Module):
    """The moving average of its students: teacher = decay * teacher + (1 - decay) * mean of students, after real steps.

    decay: weight of the OLD teacher, or a function of the updates completed. warmup: min(1 - 1/(k+1), decay) at the
    k-th update. copy_at: the update (from 0) that copies the student outright, whatever the decay.
    buffers: what happens to the running statistics of normalisation layers: `copy` the student's, `blend` them like
    parameters, or leave the teacher its `own`. Integer buffers are copied in the first two, never averaged.
    mode: the teacher runs in `eval` (deterministic targets) or in `train` (dropout active, batch statistics).
    No gradient reaches it. The average is kept in float32 at least, whatever the students' precision: bfloat16 cannot
    hold the increments of a decay of .9996.
    """

    def __init__(
        self,
        student: nn.Module,
        decay: Decay = 0.99,
        warmup: bool = False,
        buffers: BufferPolicy = "copy",
        mode: Literal["eval", "train"] = "eval",
        copy_at: int | None = None,
    ):
        super().__init__()
        self.decay, self.warmup, self.buffer_policy, self.mode, self.copy_at = decay, warmup, buffers, mode, copy_at
        self.network = copy.deepcopy(student).requires_grad_(False)
        for values in [*self.network.parameters(), *self.network.buffers()]:
            if values.dtype in (torch.bfloat16, torch.float16):
                values.data = values.data.float()
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

    def decay_now(self) -> float:
        """The weight of the old teacher in the next update."""
        if self.updates == self.copy_at:
            return 0.0
        decay = self.decay(self.updates) if callable(self.decay) else self.decay
        return ema_warmup(self.updates, decay) if self.warmup else decay

    @torch.no_grad()
    def update(self, *students: nn.Module) -> None:
        """One step of the average over one student, or over several of the same kind."""
        decay = self.decay_now()
        self.updates += 1
        blend(list(self.network.parameters()), mean([list(s.parameters()) for s in students]), decay)
        if self.buffer_policy == "own":
            return
        blending = decay if self.buffer_policy == "blend" else 0.0
        floating = [b for b in self.network.buffers() if b.is_floating_point()]
        theirs = [[b for b in s.buffers() if b.is_floating_point()] for s in students]
        blend(floating, mean(theirs), blending)
        for mine, first in zip(self.network.buffers(), students[0].buffers()):
            if not mine.is_floating_point():
                mine.copy_(first)

    def get_extra_state(self) -> Tensor:
        return torch.tensor(self.updates)

    def set_extra_state(self, state: Tensor) -> None:
        self.updates = int(state)


class FrozenTeacher(nn.Module):
    """A network that never changes, always in eval mode.

    differentiable: gradients pass through it to its input (something upstream is trained), and it collects none.
    Its weights are not in the checkpoint, only their fingerprint: whoever builds the method supplies the same network
    again, and another one is refused when a run is resumed. stored: they are in it, for a network that nobody can
    supply again, such as what the student of a later phase started from.
    """

    def __init__(self, network: nn.Module, differentiable: bool = False, stored: bool = False):
        super().__init__()
        self.network, self.differentiable, self.stored = network.requires_grad_(False), differentiable, stored
        if not stored:
            self.register_state_dict_post_hook(_without_network)  # type: ignore[no-untyped-call]
            self.register_load_state_dict_pre_hook(_with_network)  # type: ignore[no-untyped-call]
        self.train()

    def train(self, mode: bool = True) -> FrozenTeacher:
        """It stays in eval mode."""
        super().train(False)
        return self

    def forward(self, image: Tensor) -> Tensor:
        with torch.set_grad_enabled(self.differentiable and torch.is_grad_enabled()):
            output: Tensor = self.network(image)
        return output

    def get_extra_state(self) -> Tensor:
        text = "" if self.stored else fingerprint(self.network)
        return torch.tensor(list(text.encode()), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise InputError(
                "the frozen teacher is another network than the one this run was started with; resume with the same "
                "teacher, or start a new run"
            )


class StoredTeacher(nn.Module):
    """Stands for a teacher whose logits were computed before and come with the batch (`TEACHER_LOGITS`).

    classes: how many it tells apart. mark: what tells these signals from others; a run is resumed with the same alone.
    """

    def __init__(self, classes: int, mark: str):
        super().__init__()
        self.classes, self.mark = classes, mark

    def forward(self, image: Tensor) -> Tensor:
        raise InputError(
            "the teacher's logits were stored, and this batch came without them: they are those of the recipe's "
            "labelled stream alone"
        )

    def get_extra_state(self) -> Tensor:
        return torch.frombuffer(bytearray(self.mark, "ascii"), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        if not torch.equal(state.cpu(), self.get_extra_state()):
            raise InputError(
                "the stored signals are others than those this run was started with; resume with the same folder, or "
                "start a new run"
            )


def constant(teacher: nn.Module) -> FrozenTeacher | StoredTeacher:
    """A trained network as a teacher that never changes; stored signals as they are."""
    return teacher if isinstance(teacher, StoredTeacher) else FrozenTeacher(teacher)


def for_teacher(x: Batch) -> Tensor:
    """The images of a batch as its teacher wants them: of its own, where its preprocessing differs."""
    return x.view.get(TEACHER_IMAGE, x.image)


def _without_network(module: nn.Module, state: dict[str, Any], prefix: str, _local: Any) -> None:
    for name in [name for name in state if name.startswith(f"{prefix}network.")]:
        del state[name]


def _with_network(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    assert isinstance(module.network, nn.Module)
    state.update({f"{prefix}network.{name}": value for name, value in module.network.state_dict().items()})


def mean(students: Sequence[Sequence[Tensor]]) -> list[Tensor]:
    """The mean of several lists of tensors, in float32 at least; a single list as it is."""
    if len(students) == 1 or not students[0]:
        return list(students[0])
    sums = [t.to(torch.promote_types(t.dtype, torch.float32), copy=True) for t in students[0]]
    for others in students[1:]:
        torch._foreach_add_(sums, list(others))
    torch._foreach_div_(sums, float(len(students)))
    return sums


def blend(old: list[Tensor], new: list[Tensor], decay: float) -> None:
    """old <- decay * old + (1 - decay) * new, in place, in one fused call. decay 1 keeps old, decay 0 copies new."""
    if not old or decay == 1.0:
        return
    if decay == 0.0:  # lerp would give old + (new - old), which rounds
        torch._foreach_copy_(old, new)
    else:
        torch._foreach_lerp_(old, [n.to(o.dtype) for n, o in zip(new, old)], 1.0 - decay)
