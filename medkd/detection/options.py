"""Typed options of the detection methods. No torch at import; `build` imports the class it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

import medkd.engine.options as engine
from medkd.distill.options import LossListOptions

if TYPE_CHECKING:
    from medkd.engine.method import Method
    from medkd.engine.phases import Networks


class MethodOptions(engine.MethodOptions):
    """Base of the method options of this room."""

    tasks: ClassVar[tuple[str, ...]] = ("detection",)


class SupervisedDetectionOptions(MethodOptions):
    kind: Literal["supervised_detection"] = "supervised_detection"
    strong: bool = Field(False, description="also train on the strong view: colours, blur, erased rectangles")
    average: float | None = Field(None, gt=0, lt=1, description="decay of a moving average of the weights")
    relation: bool = Field(
        True, description="keep which class is mistaken for which: relation.json beside the model, for Grounded Teacher"
    )
    include_background: bool = Field(
        False, description="the relation also counts missed objects, as Grounded Teacher's"
    )

    paper: ClassVar[str] = "labelled-only training"
    summary: ClassVar[str] = "the detector's own losses on the labelled images alone: a source detector, or an oracle"
    needs: ClassVar[tuple[str, ...]] = ("labelled",)
    candidates: ClassVar[tuple[str, ...]] = ("student", "average")

    def build(self, networks: Networks) -> Method:
        from medkd.detection.supervised import SupervisedDetection

        return SupervisedDetection(networks(0), self)


class DistilDetectionOptions(LossListOptions):
    """Needs a teacher with the dataset's classes: a phase before that `becomes: teacher`, or `teacher: MODEL`.

    Losses with paths compare maps, such as the levels of the pyramids (`backbone.fpn.layer_blocks.0` is the finest).
    Without paths: `kd`, `dkd` and `dist` compare what both make of the regions that a two-stage student sampled,
    `bernoulli_kd` the anchors of two one-stage detectors.
    """

    kind: Literal["distil_detection"] = "distil_detection"

    summary: ClassVar[str] = "a detector learns from boxes and from a frozen detector, by a list of losses"
    tasks: ClassVar[tuple[str, ...]] = ("detection",)

    def build(self, networks: Networks) -> Method:
        from medkd.detection.distil import DistilDetector

        return DistilDetector(networks(0), networks("teacher"), self)
