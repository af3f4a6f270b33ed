"""Distil: a student learns from labels and from a frozen teacher, by any list of losses.

The shapes of all tensors that are compared are learnt in one pass of an empty image, in eval mode and without gradient;
the losses make their projectors from these. Projectors are trained with the student and saved in checkpoints; the
candidate that is evaluated and shipped is the student alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from medkd.distill.loss_options import LOGITS, LossOptions
from medkd.distill.methods.banks import Banks
from medkd.distill.methods.compared import Found, compared, known, pooled
from medkd.distill.methods.forward import dry, dry_image, inside, main_logits, tapped, teacher_logits, tried
from medkd.distill.options import LossListOptions
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.phases import Stream
from medkd.engine.teachers import StoredTeacher, constant, for_teacher
from medkd.errors import InputError


@dataclass(frozen=True)
class Seen:
    """What the student made of a batch: its loss on the labels, its tensors by path, and the label of each logit."""

    loss: Tensor
    found: Found
    labels: Tensor


class Distil(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, teacher: nn.Module, options: LossListOptions):
        super().__init__()
        self.student, self.teacher, self.options = student, constant(teacher), options
        mine, theirs = (sorted({p for loss in options.losses for p in loss.paths()[side]}) for side in (0, 1))
        self.paths = [p for p in mine if p != LOGITS], [p for p in theirs if p != LOGITS]
        for loss in options.losses:
            loss.prepare(student, inside(self.teacher))
        known("student", student, self.paths[0])
        if isinstance(self.teacher, StoredTeacher):
            logits_alone(options)
        known("teacher", inside(self.teacher), self.paths[1])
        found = self.dry_pass()
        self.classes = found[0][LOGITS].shape[1]
        self.pairs = [compared(loss, *found, self.classes) for loss in options.losses]
        self.losses = nn.ModuleList(
            nn.Identity() if loss.reads == "bank" else loss.build(pair)
            for loss, pair in zip(options.losses, self.pairs)
        )
        self.banks = Banks()

    def dry_pass(self) -> tuple[Found, Found]:
        """The tensors of both sides for an empty image."""
        mine = self.tried("student", self.student, self.paths[0])
        if isinstance(self.teacher, StoredTeacher):
            theirs: Found = {LOGITS: mine[LOGITS].new_zeros(1, self.teacher.classes, *mine[LOGITS].shape[2:])}
        else:
            theirs = self.tried("teacher", self.teacher, self.paths[1])
        if theirs[LOGITS].shape[1] != mine[LOGITS].shape[1]:
            raise InputError(
                f"the teacher tells {theirs[LOGITS].shape[1]} classes apart, the student {mine[LOGITS].shape[1]}; "
                "distil from a teacher of the same classes in the same order"
            )
        return mine, theirs

    def tried(self, side: str, network: nn.Module, paths: list[str]) -> Found:
        """A first forward of one side. Raises InputError for an image that it cannot take."""
        image = dry_image(inside(network), (), side=self.options.dry_size)
        try:
            with dry(network), tried(inside(network), paths) as found:
                logits = main_logits(network(image), image)
        except InputError:
            raise
        except (RuntimeError, ValueError) as error:
            size = " x ".join(map(str, image.shape[2:]))
            raise InputError(
                f"the {side}, {type(inside(network)).__name__}, cannot take an image of {size} "
                f"({str(error).splitlines()[0]}); set dry_size to a side that it takes"
            ) from None
        return {**found, LOGITS: logits}

    def prepare(self, streams: Mapping[str, Stream]) -> None:
        """Make the memory banks: a row for each labelled training image."""
        for number, (options, pair) in enumerate(zip(self.options.losses, self.pairs)):
            if options.reads == "bank":
                labels = self.banks.of(cast(Any, streams["labelled"]).case_classes())
                self.losses[number] = options.build(pair, labels)

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return [p for part in (self.student, self.losses) for p in part.parameters() if p.requires_grad]

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x = batch["labelled"]
        # 1. Both see the same image.
        seen = self.student_sees(x, ctx)
        theirs = self.teacher_sees(x, seen)

        # 2. The task's loss on the labels, and every loss against the teacher at its weight of now.
        total, logs = torch.zeros_like(seen.loss), {"loss_labelled": seen.loss.detach()}
        for number, options in enumerate(self.options.losses):
            value = self.compare(number, seen, theirs, x, ctx)
            name = f"loss_{options.kind}"
            logs[name] = logs.get(name, 0) + value.detach()
            total = total + options.weight * ramped(options.ramp, ctx) * value
        logs["loss_distillation"] = total.detach()
        return StepOutput(self.options.label_weight * seen.loss + total, logs)

    def student_sees(self, x: Batch, ctx: StepContext) -> Seen:
        with tapped(self.student, self.paths[0]) as found:
            output: Tensor = self.student(x.image)
        found[LOGITS] = main_logits(output, x.image)
        return Seen(ctx.task.supervised_loss(output, x.labels), found, x.labels)

    def teacher_sees(self, x: Batch, seen: Seen) -> Found:
        if isinstance(self.teacher, StoredTeacher):
            return {LOGITS: teacher_logits(self.teacher, x)}
        with tapped(inside(self.teacher), self.paths[1]) as found:
            output: Tensor = self.teacher(for_teacher(x))
        found[LOGITS] = main_logits(output, x.image)
        return found

    def compare(self, number: int, seen: Seen, theirs: Found, x: Batch, ctx: StepContext) -> Tensor:
        """The value of one loss, unweighted."""
        options, loss = self.options.losses[number], self.losses[number]
        s, t = ([found[p] for p in paths] for found, paths in zip((seen.found, theirs), options.paths()))
        if options.takes == "vectors":
            s, t = [pooled(f) for f in s], [pooled(f) for f in t]
        if options.listed:
            value: Tensor = loss(s, t)
        elif options.reads == "bank":
            value = self.banks.loss(number, loss, s[0], t[0], x, ctx)
        else:
            value = loss(s[0], t[0], *self.beside(number, options, loss, s[0], seen, x))
        return value

    def beside(
        self, number: int, options: LossOptions, loss: nn.Module, features: Tensor, seen: Seen, x: Batch
    ) -> tuple[Tensor, ...]:
        """What a loss reads beside the two tensors."""
        match options.reads:
            case "labels":
                return (seen.labels,)
            case "uniform":
                shape = loss.mask_shape(features)  # type: ignore[operator]
                return (x.draws.uniform(f"mask {number}", *shape),)
        return ()

    def after_step(self, ctx: StepContext) -> None:
        self.banks.update(self.losses, ctx)


def logits_alone(options: LossListOptions) -> None:
    """Raise InputError for losses that read a teacher's features."""
    if features := [loss.kind for loss in options.losses if any(path != LOGITS for path in loss.paths()[1])]:
        raise InputError(
            f"a stored teacher has logits alone, and losses has {', '.join(features)}: give teacher: MODEL"
        )


def ramped(share: float, ctx: StepContext) -> float:
    """From 0 to 1 in equal steps over the first `share` of the phase; 1 without a ramp."""
    return min(1.0, (ctx.step + 1) / (share * ctx.total)) if share else 1.0
