"""Train a recipe: from a dataset folder to a run folder with a model in it.

RUN/recipe.yaml  manifest.json  log.jsonl  tensorboard/  last.safetensors  weights/{best,last}.safetensors
    first_batch.png  curves.png  report.html  model/
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor

import medkd
from medkd.config.load import load_recipe
from medkd.config.recipe import Recipe
from medkd.engine.checkpoint import fingerprint
from medkd.engine.fit import Selection, fit
from medkd.engine.recovery import readable_disk_errors
from medkd.engine.runtime import Runtime, open_runtime
from medkd.engine.signals import Stopped, stop_requests
from medkd.engine.task import Task
from medkd.engine.tracking import Tracker, read_log
from medkd.errors import InputError
from medkd.inference.model_folder import write_model
from medkd.runs.tasks import task_runs
from medkd.runs.tasks.protocol import Setup


def train(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    console: Console | None = None,
    watch: Callable[[Setup], Task] | None = None,
) -> Selection:
    """Run a recipe; `resume` continues a stopped or killed run exactly. Under torchrun one process of several.

    watch: makes the task that takes the place of the setup's own, for example one whose evaluation scores more.
    Raises InputError before anything is written, Stopped if a signal ended the run (it is saved), TrainingError.
    """
    if recipe.data is None:
        raise InputError("data is not set; add data=DATASET, the folder that `medkd prepare` wrote")
    runtime = open_runtime(recipe.runtime, ranks=True)
    if runtime.leads:
        _check_out(recipe, out, resume, overwrite)
    setup = build(recipe, runtime)
    started = time.perf_counter()
    total = sum(phase.steps for phase in setup.phases)
    task = watch(setup) if watch else setup.task
    with readable_disk_errors(f"{out} could not be written"), stop_requests() as stop:
        if runtime.leads:
            _start_folder(setup, out, resume)
        with Tracker(out, console, total) if runtime.leads else Tracker() as tracker:
            for text in setup.notes() if runtime.leads and not resume else ():
                tracker.note(text)
            try:
                selection = fit(
                    setup.phases, setup.network, task, runtime, recipe.seed,
                    out=out, resume=resume, tracker=tracker, save_every=recipe.save_every, stop=stop,
                )  # fmt: skip
            except Stopped as stopped:
                raise Stopped(f"{stopped}; {out} is saved, continue with --resume") from None
        if runtime.leads:
            ship(setup, selection, out, seconds=time.perf_counter() - started)
    return selection


def build(recipe: Recipe, runtime: Runtime | None = None) -> Setup:
    """Read the data, make the streams, the task and the phases."""
    return task_runs(recipe.task).build(recipe, runtime or open_runtime(recipe.runtime))


def ship(setup: Setup, selection: Selection, out: Path, seconds: float) -> None:
    """Write the weights, the model folder and the report."""
    recipe, dataset = setup.recipe, setup.dataset
    weights: dict[str, dict[str, Tensor]] = {"best": selection.best, "last": selection.last}
    (out / "weights").mkdir(exist_ok=True)
    for name, state in weights.items():
        save_file({k: v.contiguous() for k, v in state.items()}, out / "weights" / f"{name}.safetensors")
    rows = read_log(out / "log.jsonl")
    score, step = selection.score, selection.step
    if recipe.ship == "last":
        key = f"{recipe.phases[-1].candidate}/{setup.task.primary}"
        score = next((row[key] for row in reversed(rows) if row["kind"] == "validation" and key in row), math.nan)
        step = recipe.phases[-1].steps
    trained = {
        "by": f"medkd {medkd.__version__}",
        "methods": [phase.method.kind for phase in recipe.phases],
        "candidate": recipe.phases[-1].candidate,
        "weights": recipe.ship,
        "selected_at_step": step,
        **setup.scored(score),
        "labelled_cases": len(dataset.select("train", labelled=True)),
        "unlabelled_cases": len(dataset.select("train", labelled=False)),
        "split": dataset.fingerprint,
        "seed": recipe.seed,
    }
    description = setup.describe(trained)
    extra = setup.extra_files(selection.extras)
    write_model(out / "model", description, weights[recipe.ship], setup.card(description), extra)
    from medkd.runs.train_report import write_train_report

    write_train_report(out, setup, rows, trained, score, seconds)


def manifest(setup: Setup) -> dict[str, Any]:
    """What a reader needs to judge or repeat the run."""
    packages = ("torch", "monai", "numpy", "scipy", "nibabel", "safetensors", "pydantic")
    device = setup.runtime.device
    return {
        "medkd": medkd.__version__,
        "git": _git_state(),
        "python": platform.python_version(),
        "packages": {name: version(name) for name in packages},
        "hardware": {
            "processor": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "processes": setup.runtime.world,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        },
        "seed": setup.recipe.seed,
        "split": setup.dataset.fingerprint,
        "cases": {
            "labelled": [c.id for c in setup.dataset.select("train", labelled=True)],
            "held_out": sorted(setup.held_out()),
            "unlabelled": len(setup.dataset.select("train", labelled=False)),
            "validation": len(setup.dataset.select("val")),
        },
        "student_before_training": fingerprint(setup.network(0)),
    }


def _start_folder(setup: Setup, out: Path, resume: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    _write_atomic(out / "recipe.yaml", yaml.safe_dump(setup.recipe.model_dump(mode="json"), sort_keys=False))
    if not (resume and (out / "manifest.json").exists()):
        _write_atomic(out / "manifest.json", json.dumps(manifest(setup), indent=1))
        (out / "first_batch.png").write_bytes(setup.first_batch())


def _check_out(recipe: Recipe, out: Path, resume: bool, overwrite: bool) -> None:
    if overwrite and not resume:
        if out.exists() and any(out.iterdir()) and not (out / "recipe.yaml").exists():
            raise InputError(f"{out} is not a run folder, so --overwrite does not delete it; give another --out")
        shutil.rmtree(out, ignore_errors=True)
    if out.exists() and any(out.iterdir()) and not resume:
        raise InputError(f"{out} already holds files; continue it with --resume, replace it with --overwrite")
    if resume and (out / "recipe.yaml").exists():
        before = load_recipe(out / "recipe.yaml")
        keys = dict.fromkeys([*type(before).model_fields, *type(recipe).model_fields])
        changed = [key for key in keys if getattr(before, key, None) != getattr(recipe, key, None)]
        if changed:
            raise InputError(
                f"{out} was started with another recipe ({', '.join(changed)} differ); --resume needs the same one, "
                f"{out / 'recipe.yaml'}"
            )
        if not (out / "manifest.json").exists():
            return  # killed before the first update
        threads = json.loads((out / "manifest.json").read_text())["hardware"]["threads"]
        if recipe.runtime.threads is None and threads != torch.get_num_threads():
            raise InputError(
                f"{out} ran with {threads} threads, here are {torch.get_num_threads()}; a run continues exactly only "
                f"at the same number: set OMP_NUM_THREADS={threads}"
            )


def _git_state() -> str | None:
    """Commit of the source tree medkd runs from, None for an installed package."""
    source = Path(medkd.__file__).parent
    if not (source.parent / ".git").exists():
        return None
    done = subprocess.run(
        ["git", "-C", str(source.parent), "describe", "--always", "--dirty"], capture_output=True, text=True
    )
    return done.stdout.strip() or None


def _write_atomic(path: Path, text: str) -> None:
    temporary = path.with_name(path.name + ".partial")
    temporary.write_text(text)
    temporary.replace(path)
