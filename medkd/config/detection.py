"""The recipe of detection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from medkd.config.recipe import PhaseOptions, Recipe, StreamOptions
from medkd.data.detection_options import DetectionAugment
from medkd.data.image_options import ImagePreprocess
from medkd.detection.detectors.options import DetectorUnion, FasterRCNNOptions

if TYPE_CHECKING:
    from torch import nn


class DetectionStreamOptions(StreamOptions):
    """One data stream: how many images a step, and how their weak and strong views are made."""

    size: PositiveInt = 4
    augment: DetectionAugment = DetectionAugment()


class DetectionPhase(PhaseOptions):
    """A stage may train a detector of its own, such as a teacher before its student."""

    detector: DetectorUnion | None = Field(None, description="of this phase, where it is not the recipe's")


class DetectionRecipe(Recipe):
    """A detector, the images it sees, and how it is trained."""

    task: Literal["detection"] = "detection"
    preprocess: ImagePreprocess = ImagePreprocess()
    detector: DetectorUnion = FasterRCNNOptions()
    backbone_weights: str | None = Field(
        None, description="safetensors of the backbone, such as ImageNet's; not of a phase's own detector"
    )
    labelled: DetectionStreamOptions = DetectionStreamOptions()
    unlabelled: DetectionStreamOptions = DetectionStreamOptions()
    phases: tuple[DetectionPhase, ...] = Field(min_length=1)

    def streams(self) -> dict[str, DetectionStreamOptions]:
        return {"labelled": self.labelled, "unlabelled": self.unlabelled}

    @property
    def score(self) -> str:
        return {2: "AP50", 3: "AP10"}[self.preprocess.dims]

    def network_options(self, phase: int) -> DetectorUnion:
        return self.phases[phase].detector or self.detector

    def build_network(self, phase: int, channels: int, classes: int) -> nn.Module:
        made = self.network_options(phase).build(self.preprocess.dims, channels, classes)
        if self.backbone_weights and self.phases[phase].detector is None:
            from medkd.detection.detectors.pyramid import load_backbone

            load_backbone(made, Path(self.backbone_weights))
        return made
