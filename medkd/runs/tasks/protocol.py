"""What `medkd train`, `evaluate` and `predict` ask of a task."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from medkd.config.recipe import Recipe
from medkd.data.dataset import DatasetFolder
from medkd.engine.phases import Networks, Phase
from medkd.engine.runtime import Runtime
from medkd.engine.task import Task
from medkd.inference.model_folder import Model, ModelDescription

UNSCORED = "none (no validation case: the last weights are kept)"
Progress = Callable[[int, int], None]
Table = tuple[list[str], list[list[str]]]
"""Headers and rows."""


def in_words(score: float) -> str:
    """A validation score for people."""
    return f"{score:.4f}" if math.isfinite(score) else UNSCORED


@dataclass(frozen=True)
class Setup(ABC):
    """Everything a recipe is built into before the first step. A task derives its own and fills in the methods."""

    recipe: Recipe
    dataset: DatasetFolder
    runtime: Runtime
    task: Task
    network: Networks
    phases: list[Phase]

    @abstractmethod
    def first_batch(self) -> bytes:
        """A PNG of the first labelled batch, as the network gets it."""

    @abstractmethod
    def describe(self, trained: dict[str, Any]) -> ModelDescription:
        """What model.yaml says of the network that the last phase trained."""

    @abstractmethod
    def card(self, description: ModelDescription) -> str:
        """model_card.md, in Markdown."""

    def extra_files(self, extras: Mapping[str, Tensor]) -> dict[str, bytes]:
        """Files that lie in the model folder besides the usual ones, of the `extras` of the last phase's method."""
        return {}

    def notes(self) -> list[str]:
        """What the reader of the run must know before it starts, one sentence each."""
        return []

    def scored(self, score: float) -> dict[str, Any]:
        """The validation score that chose the weights, as a model's `trained` records it; None where there was none."""
        return {"validation_score": score if math.isfinite(score) else None, "score": self.task.primary}

    def held_out(self) -> frozenset[str]:
        """The labelled training cases that the `labelled` stream does not read."""
        return frozenset()

    def pictures(self, rows: list[dict[str, Any]]) -> dict[str, tuple[bytes, str]]:
        """File name -> PNG and caption, of the rows of the log: what the report shows besides the curves."""
        return {}


@dataclass(frozen=True)
class Evaluation:
    """What a model's evaluation wrote, and its numbers. cases: one entry a case, of the task's own."""

    folder: Path
    cases: list[Any]
    summary: dict[str, Any]
    table: Table


@dataclass
class Predicted:
    """Files written, files that were there already, and one line an image that could not be read."""

    written: list[Path] = field(default_factory=list)
    kept: list[Path] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    what: str = "files"

    def in_words(self) -> str:
        """One line for the console."""
        written, kept, refused = len(self.written), len(self.kept), len(self.refused)
        return f"{self.what}: {written} written, {kept} kept (they existed), {refused} refused"


class TaskRuns(Protocol):
    """The module `medkd.runs.tasks.TASK`."""

    def build(self, recipe: Recipe, runtime: Runtime) -> Setup:
        """Read the data, make the streams, the task and the phases. Raises InputError."""
        ...

    def evaluate(
        self,
        model: Model,
        data: Path,
        split: str,
        folder: Path,
        weights: str | None,
        device: torch.device,
        pictures: bool,
        progress: Progress | None,
    ) -> Evaluation:
        """Score a model on a split of a dataset folder and write what was found into `folder`."""
        ...

    def predict(
        self, model: Model, source: Path, out: Path, device: torch.device, overwrite: bool, progress: Progress | None
    ) -> Predicted:
        """Write a model's answer for everything in `source`."""
        ...
