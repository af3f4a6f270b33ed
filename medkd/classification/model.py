"""What model.yaml says of a classifier."""

from __future__ import annotations

from typing import Literal

from torch import nn

from medkd.data.image_options import ImagePreprocess
from medkd.inference.model_folder import ModelDescription
from medkd.networks.classifier_options import ClassifierOptions


class ClassificationModel(ModelDescription):
    """Tells which of `classes` an image is of."""

    task: Literal["classification"] = "classification"
    network: ClassifierOptions
    preprocess: ImagePreprocess

    def build(self) -> nn.Module:
        return self.network.build(self.preprocess.dims, len(self.channels), len(self.classes))
