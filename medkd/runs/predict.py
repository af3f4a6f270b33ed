"""A model's answers for new images: what is the same for every task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medkd.config.models import load_model
from medkd.engine.options import RuntimeOptions
from medkd.engine.runtime import open_runtime
from medkd.runs.tasks import task_runs
from medkd.runs.tasks.protocol import Predicted


def predict(
    model_path: Path,
    source: Path,
    out: Path,
    *,
    device: str = "auto",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Predicted:
    """Write the model's answer for everything in `source`. An image that cannot be read costs one line, never the
    others. What exists is kept unless `overwrite`, so that an interrupted run continues."""
    model = load_model(model_path)
    target = open_runtime(RuntimeOptions(device=device)).device
    return task_runs(model.description.task).predict(model, source, out, target, overwrite, progress)
