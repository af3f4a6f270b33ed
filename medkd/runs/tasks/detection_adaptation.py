"""What an adaptation of a detector without labels needs besides its dataset: the source model, and words about it."""

from __future__ import annotations

from pathlib import Path

from medkd.config.detection import DetectionRecipe
from medkd.config.models import load_model
from medkd.data.detection_dataset import DetectionDataset
from medkd.detection.model import DetectionModel
from medkd.detection.relation_file import RELATION
from medkd.detection.source_free_options import GroundedTeacherOptions
from medkd.errors import InputError, raise_all
from medkd.inference.model_folder import model_folder


def adapts(recipe: DetectionRecipe) -> bool:
    """Whether no phase reads labels."""
    return not any("labelled" in phase.method.needs for phase in recipe.phases)


def source_of(recipe: DetectionRecipe, dataset: DetectionDataset) -> DetectionModel | None:
    """The description of the source model. Raises InputError: an adaptation without one, or one of other classes."""
    if not recipe.init:
        if adapts(recipe):
            raise InputError("no phase reads labels and there is no source model to adapt; add init=MODEL")
        return None
    source = load_model(Path(recipe.init)).description
    if not isinstance(source, DetectionModel):
        raise InputError(f"init {recipe.init} is a model of {source.task}; the recipe's task is {recipe.task}")
    if adapts(recipe):
        raise_all(
            [
                f"init {recipe.init} has the {name} {', '.join(theirs)}; the dataset {', '.join(ours)}: they must be "
                "the same, in the same order"
                for name, theirs, ours in (
                    ("classes", source.classes, dataset.classes),
                    ("channels", source.channels, dataset.channels),
                )
                if theirs != ours
            ]
        )
    return source


def relation_of(recipe: DetectionRecipe) -> Path | None:
    """relation.json of the source model, if there is one."""
    path = model_folder(Path(recipe.init)) / RELATION if recipe.init else None
    return path if path and path.is_file() else None


def with_relation(recipe: DetectionRecipe) -> DetectionRecipe:
    """The recipe whose Grounded Teachers start from the source's relational context, where they name no other."""
    path = relation_of(recipe)
    phases = []
    for phase in recipe.phases:
        method = phase.method
        if path and isinstance(method, GroundedTeacherOptions) and method.source_matrix is None:
            method = method.model_copy(update={"source_matrix": str(path)})
        phases.append(phase.model_copy(update={"method": method}))
    return recipe.model_copy(update={"phases": tuple(phases)})


def adaptation_notes(recipe: DetectionRecipe, dataset: DetectionDataset, source: DetectionModel | None) -> list[str]:
    """What the reader of the run must know: which relational context it starts from, what chooses the weights."""
    notes = []
    for phase in recipe.phases:
        if isinstance(phase.method, GroundedTeacherOptions):
            given = phase.method.source_matrix or relation_of(recipe)
            notes.append(
                f"{phase.name}: the relational context of the source is read from {given}"
                if given
                else f"{phase.name}: {recipe.init or 'the phase before'} comes without {RELATION}, so the relational "
                "context of the source is learnt from its static labels"
            )
    if not adapts(recipe):
        return notes
    chooses = recipe.ship == "best" or any(phase.hand_over == "best" for phase in recipe.phases)
    if not dataset.select("val"):
        notes.append("there is no validation case, so nothing is chosen: the last weights are handed over and shipped")
    elif chooses:
        notes.append(
            "labels of the target's validation cases choose the weights (ship or hand_over: best): the result is an "
            "oracle's; last makes it source-free"
        )
    if source and source.preprocess != recipe.preprocess:
        notes.append(
            f"the source model was trained with preprocess {source.preprocess.model_dump(exclude_defaults=True)}, the "
            f"recipe has {recipe.preprocess.model_dump(exclude_defaults=True)}"
        )
    return notes
