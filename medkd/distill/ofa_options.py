"""Typed options of OFA-KD. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medkd.engine.options import MethodOptions

if TYPE_CHECKING:
    from medkd.engine.method import Method
    from medkd.engine.phases import Networks


class OfaOptions(MethodOptions):
    """Needs a teacher (a phase before that `becomes: teacher`, or `teacher: MODEL`) with the student's classes."""

    kind: Literal["ofa"] = "ofa"
    classes: int = Field(2, ge=2, description="of the dataset, background included")
    taps: tuple[str, ...] = Field((), description="modules of the student, shallow to deep; none: its encoder levels")
    input_size: tuple[PositiveInt, ...] = Field((), description="of the dry forward; none: 32 pixels an axis")
    gamma: PositiveFloat | tuple[PositiveFloat, ...] = Field(
        1.0,
        description="exponent of the teacher's true class, 1: plain soft labels; a list: of each exit and the last",
    )
    temperature: PositiveFloat = 1.0
    form: Literal["code", "paper"] = "code"
    kd_weight: float = Field(1.0, ge=0, description="of the final logits")
    exit_weight: float = Field(1.0, ge=0, description="of every exit; 0.1 in the published CIFAR-100 runs")
    width: PositiveInt = Field(64, description="features before the classes of an exit; dense exits have none")

    paper: ClassVar[str] = "Hao et al., One-for-All (OFA-KD), NeurIPS 2023, arXiv 2310.19444"
    summary: ClassVar[str] = "each stage of the student meets the teacher's logits through a throw-away exit"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "classification")
    needs: ClassVar[tuple[str, ...]] = ("labelled",)
    teacher_needed: ClassVar[bool] = True
    compiles: ClassVar[bool] = False  # it reads tensors inside the network

    def build(self, networks: Networks) -> Method:
        from medkd.distill.methods.ofa import OneForAll

        return OneForAll(networks(0), networks("teacher"), self)
