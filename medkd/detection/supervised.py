"""Labelled-only training of a detector: how a source detector is made, and what an oracle is trained by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from medkd.data.targets import Target
from medkd.detection.detectors.protocol import Detector, DetectorLosses, RoIs
from medkd.detection.options import SupervisedDetectionOptions
from medkd.detection.relational import RelationalContext
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.teachers import EmaTeacher

MOMENTUM, WARMUP = 0.99, 200  # of the relation, as Grounded Teacher's defaults


class SupervisedDetection(Method):
    """The detector's losses on the weak views, or on weak and strong views together in one batch.

    The relation, which class is mistaken for which, is only watched: no bit of the training depends on it. With one
    class and no background there is none.
    """

    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, options: SupervisedDetectionOptions):
        super().__init__()
        self.student, self.options = student, options
        self.average = EmaTeacher(student, options.average, warmup=True) if options.average else None
        classes = int(student.classes)  # type: ignore[arg-type]
        watched = options.relation and (classes > 1 or options.include_background)
        self.relation = RelationalContext(classes, MOMENTUM, WARMUP, options.include_background) if watched else None

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        labelled = batch["labelled"]
        images, targets = labelled.image, targets_of(labelled)
        if self.options.strong:
            images, targets = torch.cat([images, labelled.view["strong"]]), [*targets, *targets]
        detector: Detector = self.student  # type: ignore[assignment]

        def watched(rois: RoIs, number: int) -> Tensor:
            if self.relation:
                self.relation.observe(rois.gt, rois.logits.detach().argmax(1), ctx)
            return rois.mean()

        (losses,) = detector.losses(images, [targets], watched)
        return StepOutput(losses.total(), loss_logs(losses))

    def after_step(self, ctx: StepContext) -> None:
        if self.average:
            self.average.update(self.student)
        if self.relation:
            self.relation.settle(ctx)

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student} | ({"average": self.average.network} if self.average else {})

    def extras(self) -> dict[str, Tensor]:
        return {"relation": self.relation.matrix()} if self.relation else {}


def targets_of(batch: Batch) -> Sequence[Target]:
    """The targets of a stream that has them."""
    return cast("Sequence[Target]", batch.targets)


def loss_logs(losses: DetectorLosses, prefix: str = "") -> dict[str, Tensor]:
    """The parts of a loss, for the log."""
    parts = {name: getattr(losses, name) for name in ("classification", "box", "objectness", "rpn_box")}
    return {f"loss_{prefix}{name}": value.detach() for name, value in parts.items()}
