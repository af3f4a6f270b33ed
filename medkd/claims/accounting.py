"""What a run took and what it was: the accounting that makes arms comparable and a line repeatable."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

import medkd
from medkd.config.load import parse_recipe
from medkd.config.recipe import PhaseOptions, Recipe
from medkd.data.dataset import Dataset, write_whole
from medkd.errors import InputError

PLACEHOLDER = "MODEL"
"""Stands for a model folder in a recipe: one that is still to be made, or whose place does not matter."""


def images(recipe: Recipe) -> dict[str, int]:
    """How many images the student and the teacher passed over in training: the accounting of equal arms."""
    student = teacher = 0
    sizes = {name: stream.size for name, stream in recipe.streams().items()}
    for phase in recipe.phases:
        per_update = images_per_update(phase, sizes["labelled"], sizes["unlabelled"])
        student, teacher = student + phase.steps * per_update[0], teacher + phase.steps * per_update[1]
    return {"student_images": student, "teacher_images": teacher}


def images_per_update(phase: PhaseOptions, labelled: int, unlabelled: int) -> tuple[int, int]:
    """(student, teacher) images of one update (card semi_supervised_baselines 3.0)."""
    match phase.method.kind:
        case "supervised":
            return labelled, 0
        case "distil" | "ofa":
            return labelled, labelled
        case "labelled_copy_paste":
            return (labelled if phase.method.both_directions else labelled // 2), 0
        case "bcp":  # a composite a pair in each direction
            return (labelled + unlabelled) // 2, unlabelled
        case "self_training":  # half of each stream: the area of ground truth and of pseudo-label that BCP sees
            return (labelled + unlabelled) // 2, unlabelled // 2
        case "mean_teacher":
            return labelled + unlabelled, unlabelled
    raise ValueError(f"the images of {phase.method.kind} are not written down; add them to images_per_update")


def counts(dataset: Dataset) -> dict[str, int]:
    """Patients by role."""
    roles = {"labelled": ("train", True), "unlabelled": ("train", False), "validation": ("val", None)}
    chosen = {name: dataset.select(*role) for name, role in {**roles, "test": ("test", None)}.items()}
    return {name: len({case.patient for case in cases}) for name, cases in chosen.items()}


def list_hash(dataset: Dataset) -> str:
    """Hash of the labelled training cases: the same list, the same hash."""
    names = sorted(case.id for case in dataset.select("train", labelled=True))
    return hashlib.sha256("\n".join(names).encode()).hexdigest()[:16]


def parameter_hash(network: torch.nn.Module) -> str:
    """Hash of the parameters alone: networks that differ in normalisation buffers can still start alike."""
    digest = hashlib.sha256()
    for name, value in sorted(network.named_parameters()):
        digest.update(name.encode() + value.detach().numpy().tobytes())
    return digest.hexdigest()[:16]


def processor() -> str:
    """The processor by the name it gives itself, where the system tells it."""
    table = Path("/proc/cpuinfo")
    lines = table.read_text().splitlines() if table.exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return named[0] if named else platform.processor() or platform.machine()


def machine() -> dict[str, Any]:
    """On what a run ran."""
    return {
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "torch": torch.__version__,
        "medkd": medkd.__version__,
    }


def recipe_content(recipe: Recipe) -> dict[str, Any]:
    """All that determines a run but the place of its data and the device it runs on; of `runtime` the precision.

    Of model folders that it starts from it says that there is one, not where: a line has the hash of their weights.
    """
    precision = {"runtime": {"precision": recipe.runtime.precision}}
    models = {name: PLACEHOLDER for name in ("init", "teacher") if getattr(recipe, name)}
    return recipe.model_dump(mode="json", exclude={"data", "runtime"}) | precision | models


def same_recipe(content: object, recipe: Recipe) -> bool:
    """Whether what a line recorded is this recipe.

    It is read anew: an option that came later has its default there, which is what was done before it existed.
    """
    if not isinstance(content, dict):
        return False
    try:
        return recipe_content(parse_recipe(content)) == recipe_content(recipe)
    except InputError:
        return False


@dataclass
class Clock:
    """How long a run took over all its sessions. Of an interrupted run the processor time is not known: None."""

    seconds: float = 0.0
    cpu: float | None = None
    sessions: int = 1


@contextmanager
def timed(folder: Path) -> Iterator[Clock]:
    """Time the work inside, and add what earlier sessions of the run in `folder` took.

    A session that was killed counts up to its last checkpoint, because what came after is computed again.
    """
    record = folder.with_name(f"{folder.name}.sessions.json")
    past: list[list[float]] = json.loads(record.read_text()) if record.exists() else []  # [started, reached]
    checkpoint = folder / "last.safetensors"
    if past and checkpoint.exists():
        past[-1][1] = max(past[-1][0], checkpoint.stat().st_mtime)
    started, cpu, clock = time.time(), time.process_time(), Clock(sessions=len(past) + 1)
    record.parent.mkdir(parents=True, exist_ok=True)
    write_whole(record, json.dumps([*past, [started, started]]))
    yield clock
    clock.seconds = time.time() - started + sum(end - start for start, end in past)
    clock.cpu = None if past else time.process_time() - cpu
