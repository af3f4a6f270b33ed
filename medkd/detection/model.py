"""What model.yaml says of a detector."""

from __future__ import annotations

from typing import Literal

from torch import nn

from medkd.data.image_options import ImagePreprocess
from medkd.detection.detectors.options import DetectorUnion
from medkd.inference.model_folder import ModelDescription


class DetectionModel(ModelDescription):
    """Finds boxes of `classes` (foreground only) in an image."""

    task: Literal["detection"] = "detection"
    detector: DetectorUnion
    preprocess: ImagePreprocess

    def build(self) -> nn.Module:
        return self.detector.build(self.preprocess.dims, len(self.channels), len(self.classes))
