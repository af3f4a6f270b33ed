"""Segmentation's part of `medkd train`, `evaluate` and `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medkd.config.recipe import Recipe
from medkd.config.segmentation import SegmentationRecipe
from medkd.data.arrays import TrainingArrays, training_arrays
from medkd.data.dataset import Dataset, read_dataset
from medkd.data.preprocess import thickest_axis
from medkd.engine.runtime import Runtime, open_runtime
from medkd.imaging.geometry import to_canonical
from medkd.imaging.nifti import read_header
from medkd.inference.model_folder import ModelDescription, SegmentationModel
from medkd.report.slices import PLANES, Plane
from medkd.runs.checks import check_dataset, check_slices
from medkd.runs.phases import network_maker, phases_of
from medkd.runs.streams import held_out_cases, make_streams
from medkd.runs.tasks.protocol import Setup
from medkd.runs.tasks.segmentation_evaluation import evaluate
from medkd.runs.tasks.segmentation_prediction import predict
from medkd.segmentation.task import SegmentationTask

__all__ = ["SegmentationSetup", "build", "evaluate", "plane_of", "predict"]


@dataclass(frozen=True)
class SegmentationSetup(Setup):
    recipe: SegmentationRecipe
    dataset: Dataset
    task: SegmentationTask
    arrays: TrainingArrays

    def first_batch(self) -> bytes:
        from medkd.report.pictures import batch_grid

        first = self.phases[0].streams["labelled"].batch(0)
        image, label = first.image[:, 0].cpu().numpy(), first.labels.cpu().numpy()
        if image.ndim == 4:  # volumes: their middle slice
            image, label = image[..., image.shape[-1] // 2], label[..., label.shape[-1] // 2]
        return batch_grid(image, label, list(first.case_ids), self.dataset.classes, plane_of(self))

    def describe(self, trained: dict[str, Any]) -> SegmentationModel:
        return SegmentationModel(
            network=self.recipe.network_options(len(self.phases) - 1), channels=self.dataset.channels,
            classes=self.dataset.classes, preprocess=self.recipe.preprocess, trained=trained,
        )  # fmt: skip

    def card(self, description: ModelDescription) -> str:
        assert isinstance(description, SegmentationModel)
        return _card(description)

    def scored(self, score: float) -> dict[str, Any]:
        return {"validation_dice": score}

    def held_out(self) -> frozenset[str]:
        return held_out_cases(self.recipe, self.dataset)


def build(recipe: Recipe, runtime: Runtime | None = None) -> SegmentationSetup:
    """Read the data, make the streams, the task and the phases."""
    assert isinstance(recipe, SegmentationRecipe)
    runtime = runtime or open_runtime(recipe.runtime)
    dataset = read_dataset(Path(str(recipe.data)))
    check_dataset(recipe, dataset)
    check_slices(recipe, runtime.world)
    with runtime.one_before_the_others():
        arrays = training_arrays(dataset, recipe.preprocess)
        streams = make_streams(recipe, dataset, arrays, runtime)
    task = SegmentationTask(recipe.loss.build(), dataset.classes, dataset.select("val"), recipe.preprocess, runtime)
    phases = phases_of(recipe, dataset, streams)
    return SegmentationSetup(recipe, dataset, runtime, task, network_maker(recipe, dataset), phases, arrays)


def plane_of(setup: SegmentationSetup) -> Plane:
    """The plane that a picture of a sample shows: across the slice axis (2-D), axial for volumes."""
    if setup.recipe.preprocess.dims == 3:
        return "axial"
    header = read_header(setup.arrays.cases[0].images[0])
    _, affine, _ = to_canonical(np.broadcast_to(np.uint8(0), header.shape), header.affine)
    return PLANES[thickest_axis(affine)]


def _card(description: SegmentationModel) -> str:
    t = description.trained
    return (
        f"# Segmentation model\n\nClasses: {', '.join(description.classes)}. "
        f"Channels: {', '.join(description.channels)}.\n\n"
        f"Network {description.network.kind}, {description.preprocess.dims}-D, "
        f"patch {description.preprocess.patch}.\n\n"
        f"Trained by {t['by']} ({' then '.join(t['methods'])}) on {t['labelled_cases']} labelled and "
        f"{t['unlabelled_cases']} unlabelled cases, seed {t['seed']}, split {t['split']}. Validation Dice "
        f"{t['validation_dice']:.4f} at step {t['selected_at_step']} ({t['candidate']}, {t['weights']} weights).\n\n"
        "Not a medical device. Validate on your own scans before any use.\n"
    )
