"""Classification's part of `medkd train`, `evaluate` and `predict`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medkd.classification.model import ClassificationModel
from medkd.classification.task import ClassificationTask
from medkd.config.classification import ClassificationRecipe
from medkd.config.recipe import Recipe
from medkd.data.classification_dataset import ClassificationDataset, read_classification_dataset
from medkd.data.classification_streams import ClassificationStream
from medkd.data.image_arrays import image_arrays
from medkd.engine.runtime import Runtime
from medkd.inference.model_folder import ModelDescription
from medkd.networks.classifiers import classifier_takes
from medkd.report.classification import image_sheet
from medkd.runs.checks import check_dataset, check_slices
from medkd.runs.phases import network_maker, phases_of
from medkd.runs.streams import held_out_cases
from medkd.runs.tasks.classification_evaluation import evaluate
from medkd.runs.tasks.classification_prediction import predict
from medkd.runs.tasks.protocol import Setup
from medkd.runs.teachers import own_images, stored_signals

__all__ = ["ClassificationSetup", "build", "evaluate", "predict"]

PICTURED = 12
GRID, INTENSITY = ("dims", "size", "keep_aspect"), ("intensity", "percentiles", "low", "high")
"""What of preprocessing a teacher must share, and what it may have for itself."""


@dataclass(frozen=True)
class ClassificationSetup(Setup):
    recipe: ClassificationRecipe
    dataset: ClassificationDataset
    task: ClassificationTask

    def first_batch(self) -> bytes:
        """The first images of the first batch of labelled images; volumes by their middle slice."""
        first = self.phases[0].streams["labelled"].batch(0)
        images, labels = first.image[:PICTURED].cpu().numpy(), first.labels.tolist()
        flat = images[..., images.shape[-1] // 2] if images.ndim == 5 else images
        names = [self.dataset.classes[label] for label in labels]
        return image_sheet([np.moveaxis(image, 0, -1) for image in flat], list(zip(first.case_ids, names)))

    def held_out(self) -> frozenset[str]:
        return held_out_cases(self.recipe, self.dataset)

    def describe(self, trained: dict[str, Any]) -> ClassificationModel:
        return ClassificationModel(
            network=self.recipe.network_options(len(self.phases) - 1), channels=self.dataset.channels,
            classes=self.dataset.classes, preprocess=self.recipe.preprocess, trained=trained,
        )  # fmt: skip

    def card(self, description: ModelDescription) -> str:
        assert isinstance(description, ClassificationModel)
        t = description.trained
        return (
            f"# Classification model\n\nClasses: {', '.join(description.classes)}. "
            f"Channels: {', '.join(description.channels)}.\n\n"
            f"Network {description.network.kind}, {description.preprocess.dims}-D, "
            f"images of {description.preprocess.size}.\n\n"
            f"Trained by {t['by']} ({' then '.join(t['methods'])}) on {t['labelled_cases']} labelled and "
            f"{t['unlabelled_cases']} unlabelled cases, seed {t['seed']}, split {t['split']}. Validation {t['score']} "
            f"{t['validation_score']:.4f} at step {t['selected_at_step']} ({t['candidate']}, {t['weights']} weights)."
            "\n\nProbabilities are not calibrated. Not a medical device. Validate on your own images before any use.\n"
        )


def build(recipe: Recipe, runtime: Runtime) -> ClassificationSetup:
    """Read the data, make the streams, the task and the phases."""
    assert isinstance(recipe, ClassificationRecipe)
    dataset = read_classification_dataset(Path(str(recipe.data)))
    check_dataset(recipe, dataset)
    check_slices(recipe, runtime.world)
    for number in range(len(recipe.phases)):
        network = recipe.build_network(number, len(dataset.channels), len(dataset.classes))
        classifier_takes(network, len(dataset.channels), recipe.preprocess.size)
    needs = {need for phase in recipe.phases for need in phase.method.needs}
    streams, held_out = {}, held_out_cases(recipe, dataset)
    with runtime.one_before_the_others():
        own = own_images(recipe, dataset, ClassificationModel, GRID, INTENSITY)
        signals = stored_signals(recipe, dataset, recipe.labelled.augment, ())
        for name, options in recipe.streams().items():
            if name in needs:
                labelled = name == "labelled"
                cases = tuple(
                    case for case in dataset.select("train", name != "unlabelled")
                    if (case.id in held_out) == (name == "held_out")
                )  # fmt: skip
                theirs = image_arrays(dataset.root, cases, own[0], canonical=True) if own and labelled else None
                streams[name] = ClassificationStream(
                    image_arrays(dataset.root, cases, recipe.preprocess, canonical=True), name, options.size,
                    options.augment, recipe.seed, runtime.device, dataset if name != "unlabelled" else None,
                    runtime.rank, runtime.world, theirs, own[1] if own else (), signals if labelled else None,
                )  # fmt: skip
        labels = [dataset.truth(case) for case in dataset.select("train", labelled=True) if case.id not in held_out]
        loss = recipe.loss.build(np.bincount(labels, minlength=len(dataset.classes)).tolist())
        task = ClassificationTask(loss, dataset, dataset.select("val"), recipe.preprocess, runtime, recipe.select)
    phases = phases_of(recipe, dataset, streams)
    return ClassificationSetup(recipe, dataset, runtime, task, network_maker(recipe, dataset), phases)
