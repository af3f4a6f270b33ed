"""Detection's part of `medkd train`, `evaluate` and `predict`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medkd.config.detection import DetectionRecipe
from medkd.config.recipe import Recipe
from medkd.data.detection_dataset import DetectionDataset, read_detection_dataset
from medkd.data.detection_streams import DetectionStream
from medkd.data.image_arrays import image_arrays
from medkd.data.targets import Target
from medkd.detection.model import DetectionModel
from medkd.detection.relation_file import RELATION, matrix_text
from medkd.detection.task import DetectionTask
from medkd.engine.runtime import Runtime
from medkd.errors import InputError
from medkd.inference.model_folder import ModelDescription
from medkd.report.detections import Boxed, detection_sheet, relation_heat_maps, relation_matrices
from medkd.runs.checks import check_dataset, check_slices
from medkd.runs.phases import network_maker, phases_of
from medkd.runs.tasks.detection_adaptation import (
    adaptation_notes,
    adapts,
    source_of,
    with_relation,
)
from medkd.runs.tasks.detection_evaluation import evaluate
from medkd.runs.tasks.detection_prediction import predict
from medkd.runs.tasks.protocol import Setup, in_words
from medkd.runs.teachers import own_images

__all__ = ["DetectionSetup", "build", "evaluate", "predict"]


@dataclass(frozen=True)
class DetectionSetup(Setup):
    recipe: DetectionRecipe
    dataset: DetectionDataset
    task: DetectionTask
    source: DetectionModel | None

    def first_batch(self) -> bytes:
        """The first batch of the first stream: weak views above, strong ones below; volumes by their middle slice."""
        stream = next(iter(self.phases[0].streams.values()))
        batch = stream.batch(0)
        none = Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))
        targets = [none] * len(batch) if batch.label is None else list(batch.targets)
        shown = []
        for view, images in (("weak", batch.image), ("strong", batch.view["strong"])):
            for image, target, name in zip(images.cpu(), targets, batch.case_ids):
                if image.ndim == 4:
                    image, target = image[..., image.shape[-1] // 2], none
                pixels = image.movedim(0, -1).numpy() if len(image) == 3 else image[0].numpy()
                boxes, labels = target.boxes.cpu().numpy(), target.labels.cpu().numpy()
                shown.append(Boxed(name, pixels, boxes, labels, note=view))
        return detection_sheet(shown, self.dataset.classes, columns=len(batch))

    def describe(self, trained: dict[str, Any]) -> DetectionModel:
        return DetectionModel(
            detector=self.recipe.network_options(len(self.phases) - 1), channels=self.dataset.channels,
            classes=self.dataset.classes, preprocess=self.recipe.preprocess, trained=trained,
        )  # fmt: skip

    def extra_files(self, extras: Mapping[str, Tensor]) -> dict[str, bytes]:
        """The relational context of a source training: an adaptation reads it from there."""
        return {RELATION: matrix_text(extras["relation"]).encode()} if "relation" in extras else {}

    def notes(self) -> list[str]:
        return adaptation_notes(self.recipe, self.dataset, self.source)

    def pictures(self, rows: list[dict[str, Any]]) -> dict[str, tuple[bytes, str]]:
        """The relational context over time, where a method has one of several classes."""
        matrices = relation_matrices(rows, len(self.dataset.classes))
        if not matrices or len(self.dataset.classes) == 1:
            return {}
        caption = "Relational context over the updates: row, what a region is labelled; column, what the student says."
        return {"relation.png": (relation_heat_maps(matrices, self.dataset.classes), caption)}

    def card(self, description: ModelDescription) -> str:
        assert isinstance(description, DetectionModel)
        t, score = description.trained, description.trained["validation_score"]
        notes = "".join(f"\n\n{note[0].upper()}{note[1:]}." for note in self.notes())
        return (
            f"# Detection model\n\nClasses: {', '.join(description.classes)}. "
            f"Channels: {', '.join(description.channels)}.\n\n"
            f"Detector {description.detector.kind}, {description.preprocess.dims}-D, "
            f"images of {description.preprocess.size}.\n\n"
            f"Trained by {t['by']} ({' then '.join(t['methods'])}) on {t['labelled_cases']} labelled and "
            f"{t['unlabelled_cases']} unlabelled cases, seed {t['seed']}, split {t['split']}. Validation {t['score']} "
            f"{in_words(math.nan if score is None else score)} at step {t['selected_at_step']} "
            f"({t['candidate']}, {t['weights']} weights).{notes}"
            "\n\nNot a medical device. Validate on your own images before any use.\n"
        )


def build(recipe: Recipe, runtime: Runtime) -> DetectionSetup:
    """Read the data, make the streams, the task and the phases. The `unlabelled` stream never has a way to a box."""
    assert isinstance(recipe, DetectionRecipe)
    dataset = read_detection_dataset(Path(str(recipe.data)), annotations=False)
    check_dataset(recipe, dataset)
    if not adapts(recipe) or dataset.select("val"):
        dataset = read_detection_dataset(dataset.root)
    source = source_of(recipe, dataset)
    check_slices(recipe, runtime.world)
    own = own_images(recipe, dataset, DetectionModel, tuple(type(recipe.preprocess).model_fields), ())
    if own:
        theirs = ", ".join(dataset.channels[number] for number in own[1])
        raise InputError(
            f"teacher {recipe.teacher} has the channels {theirs}; the dataset {', '.join(dataset.channels)}; a "
            "detector's must be the same in the same order"
        )
    needs = {need for phase in recipe.phases for need in phase.method.needs}
    streams = {}
    with runtime.one_before_the_others():
        for name, options in recipe.streams().items():
            if name in needs:
                labelled = name == "labelled"
                arrays = image_arrays(dataset.root, dataset.select("train", labelled), recipe.preprocess)
                streams[name] = DetectionStream(
                    arrays, name, options.size, options.augment, recipe.seed, runtime.device,
                    dataset if labelled else None, runtime.rank, runtime.world,
                )  # fmt: skip
        task = DetectionTask(dataset, dataset.select("val"), recipe.preprocess, runtime)
    phases = phases_of(with_relation(recipe), dataset, streams)
    return DetectionSetup(recipe, dataset, runtime, task, network_maker(recipe, dataset), phases, source)
