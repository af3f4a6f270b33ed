"""Typed options of published source-free baselines. No torch at import; `build` imports the class it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medkd.detection.source_free_options import SourceFreeOptions

if TYPE_CHECKING:
    from medkd.engine.method import Method
    from medkd.engine.phases import Networks


class IrgOptions(SourceFreeOptions):
    kind: Literal["irg"] = "irg"
    threshold: float = Field(0.9, ge=0, le=1, description="a teacher's detection above this score is a label")
    decay: float = Field(0.9, ge=0, le=1, description="weight of the OLD teacher")
    every: PositiveInt = Field(100, description="updates between two steps of the average; published: an epoch")
    width: PositiveInt = Field(128, description="features within the graph convolutions; published: 512 of 2048")
    temperature: PositiveFloat = Field(0.07, description="of the contrast")
    contrast: float = Field(0.5, ge=0, description="weight of the contrast")
    agreement: float = Field(1.0, ge=0, description="weight of the three divergences between logits")

    paper: ClassVar[str] = "IRG, Instance Relation Graph Guided Source-Free Domain Adaptive Object Detection, CVPR 2023"
    summary: ClassVar[str] = "mean teacher whose proposals form a graph: refined logits, a contrast of related regions"

    def build(self, networks: Networks) -> Method:
        from medkd.detection.irg import InstanceRelationGraph

        return InstanceRelationGraph(networks(0), self)


class PetsOptions(SourceFreeOptions):
    kind: Literal["pets"] = "pets"
    period: PositiveInt = Field(100, description="updates between two exchanges; published: an epoch")

    paper: ClassVar[str] = "PETS, Periodically Exchange Teacher-Student for Source-Free Object Detection, ICCV 2023"
    summary: ClassVar[str] = "labels fused of a moving and a static teacher; static teacher and student change places"

    def build(self, networks: Networks) -> Method:
        from medkd.detection.pets import Pets

        return Pets(networks(0), self)


class LpldOptions(SourceFreeOptions):
    kind: Literal["lpld"] = "lpld"
    decay: float = Field(0.75, ge=0, le=1, description="weight of the OLD teacher")
    every: PositiveInt = Field(100, description="updates between two steps of the average; published: an epoch")
    low_weight: float = Field(1.0, ge=0, description="of the distillation of low-confidence proposals")
    iou_max: float = Field(0.4, ge=0, le=1, description="a proposal that overlaps a label by more is left to the label")
    foreground_min: float = Field(0.9, ge=0, le=1, description="least share of its best class among the foreground")
    background_max: float = Field(0.99, ge=0, le=1, description="most it may look like background")

    paper: ClassVar[str] = "LPLD, Low-confidence Pseudo Label Distillation, ECCV 2024"
    summary: ClassVar[str] = "mean teacher that also distils the classes of proposals it is not sure enough of to label"

    def build(self, networks: Networks) -> Method:
        from medkd.detection.lpld import Lpld

        return Lpld(networks(0), self)
