"""The recipe of detection."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from medkd.config.recipe import Recipe, StreamOptions
from medkd.data.detection_options import DetectionAugment
from medkd.data.image_options import ImagePreprocess
from medkd.detection.detectors.options import DetectorUnion, FasterRCNNOptions

if TYPE_CHECKING:
    from torch import nn


class DetectionStreamOptions(StreamOptions):
    """One data stream: how many images a step, and how their weak and strong views are made."""

    size: PositiveInt = 4
    augment: DetectionAugment = DetectionAugment()


class DetectionRecipe(Recipe):
    """A detector, the images it sees, and how it is trained."""

    task: Literal["detection"] = "detection"
    preprocess: ImagePreprocess = ImagePreprocess()
    detector: DetectorUnion = FasterRCNNOptions()
    backbone_weights: str | None = Field(None, description="safetensors of the backbone, such as ImageNet's")
    labelled: DetectionStreamOptions = DetectionStreamOptions()
    unlabelled: DetectionStreamOptions = DetectionStreamOptions()

    def streams(self) -> dict[str, DetectionStreamOptions]:
        return {"labelled": self.labelled, "unlabelled": self.unlabelled}

    @property
    def score(self) -> str:
        return {2: "AP50", 3: "AP10"}[self.preprocess.dims]

    def network_options(self, phase: int) -> DetectorUnion:
        return self.detector

    def build_network(self, phase: int, channels: int, classes: int) -> nn.Module:
        made = self.detector.build(self.preprocess.dims, channels, classes)
        if self.backbone_weights:
            from medkd.detection.detectors.pyramid import load_backbone

            load_backbone(made, Path(self.backbone_weights))
        return made
