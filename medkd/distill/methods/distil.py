"""Distil: a student learns from labels and from a frozen teacher, by any list of losses.

The shapes of all tensors that are compared are learnt in one pass of an empty image, in eval mode and without gradient;
the losses make their projectors from these. Projectors are trained with the student and saved in checkpoints; the
candidate that is evaluated and shipped is the student alone.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medkd.distill.losses.attention_transfer import AttentionTransferLoss
from medkd.distill.methods.forward import dry, dry_image, main_logits, tapped
from medkd.distill.options import DistilOptions, FeatureLossOptions, LossOptions
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.teachers import FrozenTeacher
from medkd.errors import InputError

LOGITS = ""
"""The path of a network's output."""


@dataclass(frozen=True)
class Shapes:
    """What a loss is built for: the channels of the two tensors it compares, their spatial axes, and the classes."""

    student: int
    teacher: int
    dims: int
    classes: int


class Distil(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, teacher: nn.Module, options: DistilOptions):
        super().__init__()
        self.student, self.teacher, self.options = student, FrozenTeacher(teacher), options
        pairs = [paths_of(loss) for loss in options.losses]
        self.paths = tuple(sorted({path for pair in pairs for path in (pair[side],)}) for side in (0, 1))
        known("student", student, self.paths[0])
        known("teacher", teacher, self.paths[1])
        image = dry_image(student, (), side=options.dry_size)
        with dry(student):
            mine, theirs = (forward(n, p, image)[1] for n, p in zip((student, self.teacher), self.paths))
        classes = mine[LOGITS].shape[1]
        if theirs[LOGITS].shape[1] != classes:
            raise InputError(
                f"the teacher tells {theirs[LOGITS].shape[1]} classes apart, the student {classes}; distil from a "
                "teacher of the same classes in the same order"
            )
        self.losses = nn.ModuleList(
            loss.build(Shapes(mine[s].shape[1], theirs[t].shape[1], mine[s].ndim - 2, classes))
            for loss, (s, t) in zip(options.losses, pairs)
        )

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return [p for part in (self.student, self.losses) for p in part.parameters() if p.requires_grad]

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x = batch["labelled"]
        # 1. Both see the same image.
        output, mine = forward(self.student, self.paths[0], x.image)
        _, theirs = forward(self.teacher, self.paths[1], x.image)

        # 2. The task's loss on the labels, and every loss against the teacher at its weight of now.
        labelled = ctx.task.supervised_loss(output, x.labels)
        total, logs = torch.zeros_like(labelled), {"loss_labelled": labelled.detach()}
        for options, loss in zip(self.options.losses, self.losses):
            s, t = paths_of(options)
            value = loss(mine[s], theirs[t], *self.beside(options, loss, x, mine[s]))
            name = f"loss_{options.kind}"
            logs[name] = logs.get(name, 0) + value.detach()
            total = total + options.weight * ramped(options.ramp, ctx) * value
        logs["loss_distillation"] = total.detach()
        return StepOutput(self.options.label_weight * labelled + total, logs)

    def beside(self, options: LossOptions, loss: nn.Module, x: Batch, features: Tensor) -> tuple[Tensor, ...]:
        """What a loss reads beside the two tensors."""
        match options.reads:
            case "labels":
                return (x.labels,)
            case "uniform":
                number = self.options.losses.index(options)
                shape = loss.mask_shape(features)  # type: ignore[operator]
                return (x.draws.uniform(f"mask {number}", *shape),)
        return ()


class OneLayer(nn.Module):
    """Attention Transfer between one pair of layers."""

    def __init__(self, power: float):
        super().__init__()
        self.loss = AttentionTransferLoss(power)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        value: Tensor = self.loss([student], [teacher])
        return value


def paths_of(options: LossOptions) -> tuple[str, str]:
    """The paths of the student's and of the teacher's tensor that a loss compares."""
    if isinstance(options, FeatureLossOptions):
        return options.student or LOGITS, options.teacher or LOGITS
    return LOGITS, LOGITS


def forward(network: nn.Module, paths: Sequence[str], image: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The raw output of a network, and by path the tensors its modules gave, with its full-resolution logits."""
    inside = network.network if isinstance(network, FrozenTeacher) else network
    assert isinstance(inside, nn.Module)
    with tapped(inside, [path for path in paths if path != LOGITS]) as found:
        output: Tensor = network(image)
    return output, {**found, LOGITS: main_logits(output, image)}


def known(side: str, network: nn.Module, paths: Sequence[str]) -> None:
    """Raise InputError for a path that the network does not have."""
    modules = [path for path, _ in network.named_modules()]
    for path in paths:
        if path not in modules:
            near = difflib.get_close_matches(path, modules, n=3, cutoff=0.3)
            raise InputError(
                f"the {side}, {type(network).__name__}, has no module {path!r}; it has "
                f"{', '.join(near or [m for m in modules if m and '.' not in m])}"
            )


def ramped(share: float, ctx: StepContext) -> float:
    """From 0 to 1 in equal steps over the first `share` of the phase; 1 without a ramp."""
    return min(1.0, (ctx.step + 1) / (share * ctx.total)) if share else 1.0
