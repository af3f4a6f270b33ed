"""Whether a recipe, its dataset and the processes it runs on fit together; the same for every task."""

from __future__ import annotations

from medkd.config.recipe import Recipe
from medkd.data.dataset import DatasetFolder
from medkd.errors import raise_all


def check_dataset(recipe: Recipe, dataset: DatasetFolder) -> None:
    """Raise InputError for a dataset that the recipe cannot be trained on. What learns without labels needs no
    validation case either: the last weights are then kept."""
    problems = []
    if recipe.task != dataset.task:
        problems.append(f"the dataset's task is {dataset.task!r}, the recipe's {recipe.task!r}")
    needs = {need for phase in recipe.phases for need in phase.method.needs}
    if "labelled" in needs and not dataset.select("train", labelled=True):
        problems.append(f"{dataset.root} has no labelled training case; prepare it with --labelled K")
    if "labelled" in needs and not dataset.select("val"):
        problems.append(f"{dataset.root} has no validation case, which selects the checkpoint; prepare it with one")
    if "unlabelled" in needs and not dataset.select("train", labelled=False):
        problems.append(f"{dataset.root} has no unlabelled training case, and the method needs them")
    for phase in recipe.phases:
        classes = getattr(phase.method, "classes", len(dataset.classes))
        if classes != len(dataset.classes):
            problems.append(
                f"phases.{phase.name}.method.classes is {classes}; the dataset has {len(dataset.classes)} classes"
            )
    raise_all(problems)


def check_slices(recipe: Recipe, world: int) -> None:
    """Raise InputError for batches that do not split evenly, pairs kept together, over `world` processes."""
    problems = []
    for phase in recipe.phases:
        parts = world * phase.accumulate * (2 if phase.method.pairs else 1)
        for name, stream in recipe.streams().items():
            if name in phase.method.needs and stream.size % parts:
                pairs = " x 2 (pairs)" if phase.method.pairs else ""
                problems.append(
                    f"{name}.size is {stream.size}; {world} processes x phases.{phase.name}.accumulate "
                    f"{phase.accumulate}{pairs} need a multiple of {parts}"
                )
    raise_all(problems)
