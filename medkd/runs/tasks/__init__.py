"""A task's part of `medkd train`, `evaluate` and `predict`: one module a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

from medkd.errors import InputError

if TYPE_CHECKING:
    from medkd.runs.tasks.protocol import TaskRuns


def task_runs(task: str) -> TaskRuns:
    """The module of a task, imported when it is needed."""
    match task:
        case "segmentation":
            from medkd.runs.tasks import segmentation

            return segmentation
        case "detection":
            from medkd.runs.tasks import detection

            return detection
        case "classification":
            from medkd.runs.tasks import classification

            return classification
    raise InputError(f"there is nothing that trains or evaluates the task {task!r}")
