"""Every kind of model a folder can hold: task -> what its model.yaml says."""

from __future__ import annotations

from pathlib import Path

from medkd.classification.model import ClassificationModel
from medkd.detection.model import DetectionModel
from medkd.inference.model_folder import Model, ModelDescription, SegmentationModel, open_model

MODELS: dict[str, type[ModelDescription]] = {
    "segmentation": SegmentationModel,
    "detection": DetectionModel,
    "classification": ClassificationModel,
}


def load_model(path: Path, weights: Path | None = None) -> Model:
    """A model folder of any task, or the `model/` of a run folder; `weights` replaces model.safetensors.

    Raises InputError for what is no model of this version, and for weights that do not fit.
    """
    return open_model(path, MODELS, weights)
