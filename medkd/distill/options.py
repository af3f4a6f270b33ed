"""Typed options of Distil. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveInt, model_validator

from medkd.distill.loss_options import KdOptions, LossUnion
from medkd.engine.options import MethodOptions

if TYPE_CHECKING:
    from medkd.engine.method import Method
    from medkd.engine.phases import Networks


class LossListOptions(MethodOptions):
    """What Distil asks for in every task."""

    losses: tuple[LossUnion, ...] = Field((KdOptions(),), min_length=1)
    label_weight: float = Field(1.0, ge=0, description="weight of the task's loss on the labels")
    dry_size: PositiveInt = Field(64, description="side of the empty image that is passed once to learn the shapes")

    paper: ClassVar[str] = "Hinton et al., arXiv 1503.02531, and the losses of docs/methods/distillation_losses.md"
    needs: ClassVar[tuple[str, ...]] = ("labelled",)
    teacher_needed: ClassVar[bool] = True
    compiles: ClassVar[bool] = False  # it reads features through hooks

    @model_validator(mode="after")
    def _label_weight(self) -> LossListOptions:
        for loss in self.losses:
            if loss.alone and "label_weight" not in self.model_fields_set:
                raise ValueError(f"{loss.kind} {loss.alone}; say label_weight, 0 to leave the task's loss out")
        return self

    def problems(self, task: str) -> list[str]:
        return [
            f"losses has {loss.kind}, which does not serve {task}: {loss.why}"
            for loss in self.losses
            if task not in loss.tasks
        ]


class DistilOptions(LossListOptions):
    """Needs a teacher: a phase before that `becomes: teacher`, or `teacher: MODEL` or stored signals."""

    kind: Literal["distil"] = "distil"

    summary: ClassVar[str] = "a student learns from labels and from a frozen teacher, by a list of losses"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "classification")

    def build(self, networks: Networks) -> Method:
        from medkd.distill.methods.distil import Distil

        return Distil(networks(0), networks("teacher"), self)
