"""The teacher of a recipe: a model folder or stored signals, and how its input and its classes become the recipe's.

What can be converted exactly is: other intensities (the teacher gets images of its own, prepared as it was trained,
cut and augmented like the student's), a part of the channels, classes in another order or more of them
(`distill/class_map.py`). Everything else is refused, naming both sides.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from torch import nn

from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.augment_options import AugmentOptions
from medkd.data.dataset import DatasetFolder
from medkd.data.signals import Signals, is_signals, open_signals
from medkd.distill.class_map import reclassified
from medkd.engine.teachers import StoredTeacher
from medkd.errors import InputError, raise_all
from medkd.inference.model_folder import Model, ModelDescription


def teacher_network(recipe: Recipe, dataset: DatasetFolder) -> nn.Module:
    """The recipe's teacher in the dataset's classes; a stand-in for stored signals."""
    folder = Path(str(recipe.teacher))
    if is_signals(folder):
        signals = open_signals(folder, recipe.task, dataset.classes, (), ())
        return StoredTeacher(len(dataset.classes), signals.mark())
    return in_our_classes(load_model(folder), dataset)


def in_our_classes(model: Model, dataset: DatasetFolder) -> nn.Module:
    """The network of a model in the dataset's classes. Raises InputError where it cannot be."""
    theirs = model.description.classes
    if dataset.task == "detection" and theirs != dataset.classes:
        raise InputError(
            f"the teacher has the classes {', '.join(theirs)}; the dataset {', '.join(dataset.classes)}; a detector's "
            "must be the same in the same order"
        )
    return reclassified(model.network, theirs, dataset.classes, background=dataset.task == "segmentation")


def own_images(
    recipe: Recipe, dataset: DatasetFolder, kind: type[ModelDescription], same: Sequence[str], own: Sequence[str]
) -> tuple[Any, tuple[int, ...]] | None:
    """The preprocessing that a live teacher wants, and its channels among the dataset's; None where they are the
    recipe's.

    kind: what describes the models of the task. same: options of preprocessing in which both must agree; own: those
    that the teacher has for itself. Raises InputError for a teacher that cannot be asked about the recipe's images.
    """
    if not recipe.teacher or is_signals(Path(recipe.teacher)):
        return None
    ours: Any = cast(Any, recipe).preprocess
    model = load_model(Path(recipe.teacher))
    if not isinstance(model.description, kind):
        raise InputError(
            f"teacher {recipe.teacher} is a model of {model.description.task}; the recipe's task is {recipe.task}"
        )
    theirs: Any = model.description
    problems = []
    if missing := [name for name in theirs.channels if name not in dataset.channels]:
        problems.append(
            f"teacher {recipe.teacher} has the channels {', '.join(theirs.channels)}; the dataset "
            f"{', '.join(dataset.channels)}: it needs {', '.join(missing)}"
        )
    for name in same:
        their, our = getattr(theirs.preprocess, name), getattr(ours, name)
        if their != our:
            problems.append(
                f"teacher {recipe.teacher} was trained with preprocess.{name} {their}, the recipe has {our}; student "
                "and teacher look at one grid, so give the recipe the teacher's"
            )
    try:
        in_our_classes(model, dataset)
    except InputError as error:
        problems += [f"teacher {recipe.teacher}: {problem}" for problem in error.problems]
    raise_all(problems)
    channels = tuple(dataset.channels.index(name) for name in theirs.channels)
    wanted, made = ({name: getattr(options, name) for name in own} for options in (theirs.preprocess, ours))
    if wanted == made and channels == tuple(range(len(dataset.channels))):
        return None
    if later := [phase.name for phase in recipe.phases if phase.becomes == "teacher"]:
        raise InputError(
            f"teacher {recipe.teacher} wants other images ({wanted}, channels {', '.join(theirs.channels)}) than the "
            f"recipe makes ({made}, channels {', '.join(dataset.channels)}), and phases.{later[0]} makes a teacher of "
            "the recipe's; keep one of the two"
        )
    return ours.model_copy(update=wanted), channels


def stored_signals(
    recipe: Recipe, dataset: DatasetFolder, augment: AugmentOptions, shape: tuple[int, ...]
) -> Signals | None:
    """The signals that the `labelled` stream brings along, of logits (K, *shape). Raises InputError where they would be
    of other images."""
    if not recipe.teacher or not is_signals(Path(recipe.teacher)):
        return None
    refuse_augmented(recipe.teacher, augment)
    cases = [case.id for case in dataset.select("train", labelled=True)]
    return open_signals(Path(recipe.teacher), recipe.task, dataset.classes, shape, cases)


def refuse_augmented(teacher: str, augment: AugmentOptions) -> None:
    """Raise InputError where images change from step to step: what was stored was said of the images as they are."""
    none = AugmentOptions()
    if on := [name for name in AugmentOptions.model_fields if getattr(augment, name) != getattr(none, name)]:
        raise InputError(
            f"teacher {teacher} holds what a teacher said of the images as they are, and labelled.augment changes them "
            f"({', '.join(on)}); set labelled.augment to {{preset: none}}, or give teacher: MODEL"
        )
