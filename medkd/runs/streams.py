"""The data streams of a segmentation recipe: which cases each reads, and this rank's slice of every batch; and the
patients that a recipe of segmentation or classification holds out."""

from __future__ import annotations

import numpy as np

from medkd.config.classification import ClassificationRecipe
from medkd.config.segmentation import SegmentationRecipe
from medkd.data.arrays import TeacherArrays, TrainingArrays, training_arrays
from medkd.data.dataset import Dataset, DatasetFolder
from medkd.data.streams import ArrayStream
from medkd.engine.randomness import key
from medkd.engine.runtime import Runtime
from medkd.errors import InputError
from medkd.inference.model_folder import SegmentationModel
from medkd.runs.teachers import own_images, stored_signals


def make_streams(
    recipe: SegmentationRecipe, dataset: Dataset, arrays: TrainingArrays, runtime: Runtime
) -> dict[str, ArrayStream]:
    """The streams that some phase reads. `labelled` and `held_out` share the labelled training patients."""
    needs = {need for phase in recipe.phases for need in phase.method.needs}
    held_out = held_out_cases(recipe, dataset)
    labelled = {case.id for case in dataset.select("train", labelled=True)}
    own = own_images(recipe, dataset, SegmentationModel, ("dims", "size", "spacing"), ("intensity", "interpolation"))
    teacher = TeacherArrays(training_arrays(dataset, own[0]), own[1]) if own else None
    signals = stored_signals(recipe, dataset, recipe.labelled.augment, recipe.preprocess.patch)
    cases = {"labelled": frozenset(labelled - held_out), "held_out": held_out, "unlabelled": None}
    return {
        name: ArrayStream(
            arrays, name, name != "unlabelled", options.size, recipe.preprocess.patch, options.augment, recipe.seed,
            runtime.device, options.foreground, cases[name], runtime.rank, runtime.world,
            teacher if name == "labelled" else None, signals if name == "labelled" else None,
        )
        for name, options in recipe.streams().items()
        if name in needs
    }  # fmt: skip


def held_out_cases(recipe: SegmentationRecipe | ClassificationRecipe, dataset: DatasetFolder) -> frozenset[str]:
    """The cases of the held-out patients: labelled training patients, chosen by the seed, never val or test.

    None unless a phase reads them. Raises InputError if no labelled patient would be left to train on.
    """
    if not any("held_out" in phase.method.needs for phase in recipe.phases):
        return frozenset()
    training = dataset.select("train", labelled=True)
    patients = sorted({case.patient for case in training})
    wanted = recipe.held_out.patients
    if wanted >= len(patients):
        raise InputError(
            f"held_out.patients is {wanted}, but {dataset.root} has {len(patients)} labelled training patients, of "
            "whom one at least must be left to train on"
        )
    chosen = set(np.random.default_rng(key(recipe.seed, "held out")).permutation(patients)[:wanted])
    return frozenset(case.id for case in training if case.patient in chosen)
