"""Recipes for a labelled source and an unlabelled target, with a detector that trains in seconds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medkd.config.load import parse_recipe
from medkd.config.recipe import Recipe
from medkd.data.detection_dataset import DetectionDataset
from medkd.detection.model import DetectionModel
from medkd.engine.randomness import seeded
from medkd.inference.model_folder import write_model

TREE: dict[str, Any] = {
    "task": "detection", "save_every": 50, "preprocess": {"size": [64, 64]},
    "detector": {
        "kind": "faster_rcnn", "backbone": {"kind": "tiny", "features": [8, 16, 24], "pyramid": 16},
        "anchor_scale": 4, "head": 32, "proposals": 60, "roi_samples": 32,
    },
    "labelled": {"size": 2, "augment": {"flip": [0.5, 0.0]}},
    "unlabelled": {"size": 2, "augment": {"flip": [0.5, 0.0]}},
    "runtime": {"device": "cpu"},
}  # fmt: skip


def source_recipe(data: Path, steps: int = 40, **method: Any) -> Recipe:
    phase = {
        "name": "source", "steps": steps, "validate_every": steps, "method": {"kind": "supervised_detection", **method},
        "optimizer": {"kind": "adamw", "lr": 0.003, "clip": 10.0},
    }  # fmt: skip
    return parse_recipe(TREE | {"data": str(data), "phases": [phase]})


def adapt_recipe(data: Path, init: Path | None, kind: str, steps: int = 3, **method: Any) -> Recipe:
    phase = {
        "name": "adapt", "steps": steps, "validate_every": steps, "hand_over": "last",
        "method": {"kind": kind, **method}, "optimizer": {"lr": 0.001, "clip": 10.0},
    }  # fmt: skip
    return parse_recipe(
        TREE | {"data": str(data), "init": str(init) if init else None, "phases": [phase], "ship": "last"}
    )


def untrained_model(folder: Path, dataset: DetectionDataset) -> Path:
    """The model folder of a source model that has learnt nothing, for the dataset's classes and channels."""
    recipe = source_recipe(dataset.root)
    description = DetectionModel(
        detector=recipe.detector, preprocess=recipe.preprocess, channels=dataset.channels, classes=dataset.classes
    )  # fmt: skip
    with seeded("untrained"):
        write_model(folder, description, description.build().state_dict(), "card")
    return folder
