"""Labelled-only training: the baseline that must always stand beside a semi-supervised method."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.options import SupervisedOptions
from medkd.engine.teachers import EmaTeacher


class Supervised(Method):
    """Supervised training on the labelled images, optionally with a moving average of the weights for evaluation."""

    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, options: SupervisedOptions):
        super().__init__()
        self.student = student
        self.average = EmaTeacher(student, options.average, warmup=True) if options.average else None

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        labelled = batch["labelled"]
        return StepOutput(ctx.task.supervised_loss(self.student(labelled.image), labelled.labels))

    def after_step(self, ctx: StepContext) -> None:
        if self.average:
            self.average.update(self.student)

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student} | ({"average": self.average.network} if self.average else {})
