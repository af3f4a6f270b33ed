"""Score a model on the held-out cases of a dataset: what is the same for every task."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from medkd.config.models import load_model
from medkd.engine.options import RuntimeOptions
from medkd.engine.runtime import open_runtime
from medkd.runs.tasks import task_runs
from medkd.runs.tasks.protocol import Evaluation


def evaluate(
    model_path: Path,
    data: Path,
    split: str = "test",
    *,
    out: Path | None = None,
    weights: str | None = None,
    device: str = "auto",
    pictures: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Score every case of the split; writes cases.csv, summary.json and, with pictures, a report.

    weights: `best` or `last` of a run folder instead of what it shipped.
    """
    model = load_model(model_path, model_path / "weights" / f"{weights}.safetensors" if weights else None)
    target = open_runtime(RuntimeOptions(device=device)).device
    folder = out or model_path / "evaluation" / (f"{split}_{weights}" if weights else split)
    runs = task_runs(model.description.task)
    return runs.evaluate(model, data, split, folder, weights, target, pictures, progress)
