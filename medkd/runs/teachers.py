"""The teacher of a recipe: a model folder or stored signals, and how its input and its classes become the recipe's.

What can be converted exactly is: other intensities (the teacher gets images of its own, prepared as it was trained,
cut and augmented like the student's), a part of the channels, classes in another order or more of them
(`distill/class_map.py`). Everything else is refused, naming both sides.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.config.segmentation import SegmentationRecipe
from medkd.data.arrays import TeacherArrays, training_arrays
from medkd.data.augment_options import AugmentOptions
from medkd.data.dataset import Dataset, DatasetFolder
from medkd.data.signals import Signals, is_signals, open_signals
from medkd.distill.class_map import reclassified
from medkd.engine.teachers import StoredTeacher
from medkd.errors import InputError, raise_all
from medkd.inference.model_folder import SegmentationModel


def teacher_network(recipe: Recipe, dataset: DatasetFolder) -> nn.Module:
    """The recipe's teacher in the dataset's classes; a stand-in for stored signals."""
    folder = Path(str(recipe.teacher))
    if is_signals(folder):
        signals = open_signals(folder, recipe.task, dataset.classes, (), ())
        return StoredTeacher(len(dataset.classes), signals.mark)
    model = load_model(folder)
    theirs = model.description.classes
    return reclassified(model.network, theirs, dataset.classes, background=recipe.task == "segmentation")


def teacher_arrays(recipe: SegmentationRecipe, dataset: Dataset) -> TeacherArrays | None:
    """The training samples as the teacher wants them; None where the recipe makes them so, or without a live teacher.

    Raises InputError for a teacher that cannot be asked about the images of the recipe.
    """
    if not recipe.teacher or is_signals(Path(recipe.teacher)):
        return None
    model = load_model(Path(recipe.teacher))
    theirs = model.description
    if not isinstance(theirs, SegmentationModel):
        raise InputError(f"teacher {recipe.teacher} is a model of {theirs.task}; the recipe's task is {recipe.task}")
    problems = []
    if missing := [name for name in theirs.channels if name not in dataset.channels]:
        problems.append(
            f"teacher {recipe.teacher} has the channels {', '.join(theirs.channels)}; the dataset "
            f"{', '.join(dataset.channels)}: it needs {', '.join(missing)}"
        )
    for name in ("dims", "size", "spacing"):
        their, our = getattr(theirs.preprocess, name), getattr(recipe.preprocess, name)
        if their != our:
            problems.append(
                f"teacher {recipe.teacher} was trained with preprocess.{name} {their}, the recipe has {our}; student "
                "and teacher look at one grid, so give the recipe the teacher's"
            )
    try:
        reclassified(model.network, theirs.classes, dataset.classes, background=True)
    except InputError as error:
        problems += [f"teacher {recipe.teacher}: {problem}" for problem in error.problems]
    raise_all(problems)
    channels = tuple(dataset.channels.index(name) for name in theirs.channels)
    own = {name: getattr(theirs.preprocess, name) for name in ("intensity", "interpolation")}
    ours = {name: getattr(recipe.preprocess, name) for name in own}
    if own == ours and channels == tuple(range(len(dataset.channels))):
        return None
    if later := [phase.name for phase in recipe.phases if phase.becomes == "teacher"]:
        raise InputError(
            f"teacher {recipe.teacher} wants other images ({own}, channels {', '.join(theirs.channels)}) than the "
            f"recipe makes ({ours}, channels {', '.join(dataset.channels)}), and phases.{later[0]} makes a teacher of "
            "the recipe's; keep one of the two"
        )
    return TeacherArrays(training_arrays(dataset, recipe.preprocess.model_copy(update=own)), channels)


def stored_signals(recipe: SegmentationRecipe, dataset: Dataset) -> Signals | None:
    """The signals that the `labelled` stream brings along. Raises InputError where they would be of other images."""
    if not recipe.teacher or not is_signals(Path(recipe.teacher)):
        return None
    refuse_augmented(recipe.teacher, recipe.labelled.augment)
    cases = [case.id for case in dataset.select("train", labelled=True)]
    return open_signals(Path(recipe.teacher), recipe.task, dataset.classes, recipe.preprocess.patch, cases)


def refuse_augmented(teacher: str, augment: AugmentOptions) -> None:
    """Raise InputError where images change from step to step: what was stored was said of the images as they are."""
    none = AugmentOptions()
    if on := [name for name in AugmentOptions.model_fields if getattr(augment, name) != getattr(none, name)]:
        raise InputError(
            f"teacher {teacher} holds what a teacher said of the images as they are, and labelled.augment changes them "
            f"({', '.join(on)}); set labelled.augment to {{preset: none}}, or give teacher: MODEL"
        )
