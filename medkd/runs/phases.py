"""From the phases of a recipe to those of the engine, and the networks they train."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import nn

from medkd.config.models import load_model
from medkd.config.recipe import PhaseOptions, Recipe
from medkd.data.dataset import DatasetFolder
from medkd.engine.checkpoint import load_module
from medkd.engine.phases import Networks, Phase, Stream
from medkd.engine.randomness import seeded
from medkd.runs.teachers import teacher_network


def phases_of(recipe: Recipe, dataset: DatasetFolder, streams: Mapping[str, Stream]) -> list[Phase]:
    """The phases of a recipe; those that train another network than the first make networks of their own."""
    first = recipe.network_options(0)
    own = any(recipe.network_options(number) != first for number in range(len(recipe.phases)))
    return [
        _phase(options, streams, network_maker(recipe, dataset, number) if own else None)
        for number, options in enumerate(recipe.phases)
    ]


def network_maker(recipe: Recipe, dataset: DatasetFolder, phase: int = 0) -> Networks:
    """network(i): the i-th network of a method. Its weights depend on the seed alone: arms of one seed share them.

    network("teacher"): the recipe's teacher, or one of the kind that an earlier phase trained to become the teacher,
    whose weights are handed over.
    """
    sizes = len(dataset.channels), len(dataset.classes)
    initial = load_model(Path(recipe.init)).network.state_dict() if recipe.init and phase == 0 else None
    made = [number for number in range(phase) if recipe.phases[number].becomes == "teacher"]

    def network(index: int | str) -> nn.Module:
        if index == "teacher" and recipe.teacher and not made:
            return teacher_network(recipe, dataset)
        which = made[-1] if index == "teacher" and made else phase
        with seeded(recipe.seed, "network", index):
            built = recipe.build_network(which, *sizes)
        if initial is not None and index == 0:
            load_module(built, initial, f"init {recipe.init}")
        return built

    return network


def _phase(options: PhaseOptions, streams: Mapping[str, Stream], networks: Networks | None) -> Phase:
    """A phase of the engine from a phase of a recipe."""
    return Phase(
        options.name, options.method.build, options.steps,
        {name: stream for name, stream in streams.items() if name in options.method.needs},
        options.optimizer, options.candidate, options.hand_over, options.becomes, options.carry_optimizer,
        options.validate_every, options.accumulate, options.optimizers, networks,
    )  # fmt: skip
