"""Typed options of TGeo-KD. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medkd.engine.options import MethodOptions

if TYPE_CHECKING:
    from medkd.engine.method import Method
    from medkd.engine.phases import Networks


class TgeoKdOptions(MethodOptions):
    """Needs a teacher (a phase before that `becomes: teacher`, or `teacher: MODEL`) and patients that are held out of
    the labelled training stream (`held_out`), on which the controller is trained."""

    kind: Literal["tgeo_kd"] = "tgeo_kd"
    classes: int = Field(2, ge=2, description="of the dataset, background included: the width of the controller")
    temperature: PositiveFloat = 1.5
    features: Literal["squared", "product"] = Field("squared", description="of the edges of the triangle")
    hidden: tuple[PositiveInt, ...] = Field((32, 16), description="widths of the controller")
    order: Literal["unrolled", "finite_difference", "first_order"] = "unrolled"
    inner_rate: PositiveFloat = Field(0.01, description="length of the student's virtual step; near its learning rate")

    paper: ClassVar[str] = "Hu et al., Less or More From Teacher (TGeo-KD), ICLR 2024, arXiv 2312.15112"
    summary: ClassVar[str] = (
        "a controller weighs teacher against label at every pixel or image, trained on held-out patients"
    )
    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "classification")
    needs: ClassVar[tuple[str, ...]] = ("labelled", "held_out")
    turns: ClassVar[tuple[str, ...]] = ("controller", "student")
    teacher_needed: ClassVar[bool] = True
    compiles: ClassVar[bool] = False  # the controller needs second derivatives

    def build(self, networks: Networks) -> Method:
        from medkd.distill.methods.tgeo_kd import TrilateralGeometry

        return TrilateralGeometry(networks(0), networks("teacher"), self)
