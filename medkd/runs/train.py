"""Train a recipe: from a dataset folder to a run folder with a model in it.

RUN/recipe.yaml  manifest.json  log.jsonl  tensorboard/  last.safetensors  weights/{best,last}.safetensors
    first_batch.png  curves.png  report.html  model/
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from rich.console import Console
from safetensors.torch import save_file
from torch import Tensor, nn

import medkd
from medkd.config.recipe import PhaseOptions, Recipe
from medkd.data.arrays import TrainingArrays, training_arrays
from medkd.data.dataset import Dataset, read_dataset
from medkd.data.preprocess import thickest_axis
from medkd.engine.checkpoint import fingerprint, load_module
from medkd.engine.fit import Selection, fit
from medkd.engine.phases import Networks, Phase, Stream
from medkd.engine.randomness import seeded
from medkd.engine.recovery import readable_disk_errors
from medkd.engine.runtime import Runtime, open_runtime
from medkd.engine.signals import Stopped, stop_requests
from medkd.engine.task import Task
from medkd.engine.tracking import Tracker, read_log
from medkd.errors import InputError, raise_all
from medkd.imaging.geometry import to_canonical
from medkd.imaging.nifti import read_header
from medkd.inference.model_folder import ModelDescription, load_model, write_model
from medkd.report.slices import PLANES, Plane
from medkd.runs.streams import check_slices, held_out_cases, make_streams
from medkd.segmentation.task import SegmentationTask


@dataclass(frozen=True)
class Setup:
    """Everything a recipe is built into before the first step."""

    recipe: Recipe
    dataset: Dataset
    runtime: Runtime
    arrays: TrainingArrays
    task: SegmentationTask
    network: Networks
    phases: list[Phase]


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
    runtime = runtime or open_runtime(recipe.runtime)
    dataset = read_dataset(Path(str(recipe.data)))
    _check_dataset(recipe, dataset)
    check_slices(recipe, runtime.world)
    with runtime.one_before_the_others():
        arrays = training_arrays(dataset, recipe.preprocess)
    task = SegmentationTask(recipe.loss.build(), dataset.classes, dataset.select("val"), recipe.preprocess, runtime)
    streams = make_streams(recipe, dataset, arrays, runtime)
    phases = [_phase(options, streams) for options in recipe.phases]
    return Setup(recipe, dataset, runtime, arrays, task, network_maker(recipe, dataset), phases)


def network_maker(recipe: Recipe, dataset: Dataset) -> Networks:
    """network(i): the i-th network of a method. Its weights depend on the seed alone: arms of one seed share them.

    network("teacher"): the recipe's teacher, or one of the recipe's kind whose weights an earlier phase hands over.
    """
    p = recipe.preprocess
    initial = load_model(Path(recipe.init)).network.state_dict() if recipe.init else None

    def network(index: int | str) -> nn.Module:
        if index == "teacher" and recipe.teacher:
            return load_model(Path(recipe.teacher)).network
        with seeded(recipe.seed, "network", index):
            made = recipe.network.build(p.dims, len(dataset.channels), len(dataset.classes), p.patch)
        if initial is not None and index == 0:
            load_module(made, initial, f"init {recipe.init}")
        return made

    return network


def ship(setup: Setup, selection: Selection, out: Path, seconds: float) -> None:
    """Write the weights, the model folder and the report."""
    recipe, dataset = setup.recipe, setup.dataset
    weights: dict[str, dict[str, Tensor]] = {"best": selection.best, "last": selection.last}
    (out / "weights").mkdir(exist_ok=True)
    for name, state in weights.items():
        save_file(state, out / "weights" / f"{name}.safetensors")
    trained = {
        "by": f"medkd {medkd.__version__}",
        "methods": [phase.method.kind for phase in recipe.phases],
        "candidate": recipe.phases[-1].candidate,
        "weights": recipe.ship,
        "selected_at_step": selection.step,
        "validation_dice": selection.score,
        "labelled_cases": len(dataset.select("train", labelled=True)),
        "unlabelled_cases": len(dataset.select("train", labelled=False)),
        "split": dataset.fingerprint,
        "seed": recipe.seed,
    }
    description = ModelDescription(
        network=recipe.network, channels=dataset.channels, classes=dataset.classes,
        preprocess=recipe.preprocess, trained=trained,
    )  # fmt: skip
    write_model(out / "model", description, weights[recipe.ship], _card(description))
    from medkd.runs.train_report import write_train_report

    write_train_report(out, recipe, dataset, read_log(out / "log.jsonl"), trained, seconds)


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
            "held_out": sorted(held_out_cases(setup.recipe, setup.dataset)),
            "unlabelled": len(setup.dataset.select("train", labelled=False)),
            "validation": len(setup.dataset.select("val")),
        },
        "student_before_training": fingerprint(setup.network(0)),
    }


def _phase(options: PhaseOptions, streams: Mapping[str, Stream]) -> Phase:
    return Phase(
        options.name, options.method.build, options.steps,
        {name: stream for name, stream in streams.items() if name in options.method.needs},
        options.optimizer, options.candidate, options.hand_over, options.becomes, options.carry_optimizer,
        options.validate_every, options.accumulate, options.optimizers,
    )  # fmt: skip


def _start_folder(setup: Setup, out: Path, resume: bool) -> None:
    out.mkdir(parents=True, exist_ok=True)
    _write_atomic(out / "recipe.yaml", yaml.safe_dump(setup.recipe.model_dump(mode="json"), sort_keys=False))
    if not (resume and (out / "manifest.json").exists()):
        _write_atomic(out / "manifest.json", json.dumps(manifest(setup), indent=1))
        _draw_first_batch(setup, out)


def _check_out(recipe: Recipe, out: Path, resume: bool, overwrite: bool) -> None:
    if overwrite and not resume:
        if out.exists() and any(out.iterdir()) and not (out / "recipe.yaml").exists():
            raise InputError(f"{out} is not a run folder, so --overwrite does not delete it; give another --out")
        shutil.rmtree(out, ignore_errors=True)
    if out.exists() and any(out.iterdir()) and not resume:
        raise InputError(f"{out} already holds files; continue it with --resume, replace it with --overwrite")
    if resume and (out / "recipe.yaml").exists():
        before = Recipe.model_validate(yaml.safe_load((out / "recipe.yaml").read_text()))
        changed = [k for k in Recipe.model_fields if getattr(before, k) != getattr(recipe, k)]
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


def _check_dataset(recipe: Recipe, dataset: Dataset) -> None:
    problems = []
    if recipe.task != dataset.task:
        problems.append(f"the dataset's task is {dataset.task!r}, the recipe's {recipe.task!r}")
    if not dataset.select("train", labelled=True):
        problems.append(f"{dataset.root} has no labelled training case; prepare it with --labelled K")
    if not dataset.select("val"):
        problems.append(f"{dataset.root} has no validation case, which selects the checkpoint; prepare it with one")
    needs = {need for phase in recipe.phases for need in phase.method.needs}
    if "unlabelled" in needs and not dataset.select("train", labelled=False):
        problems.append(f"{dataset.root} has no unlabelled training case, and the method needs them")
    for phase in recipe.phases:
        classes = getattr(phase.method, "classes", len(dataset.classes))
        if classes != len(dataset.classes):
            problems.append(
                f"phases.{phase.name}.method.classes is {classes}; the dataset has {len(dataset.classes)} classes"
            )
    raise_all(problems)


def _draw_first_batch(setup: Setup, out: Path) -> None:
    from medkd.report.pictures import batch_grid

    first = setup.phases[0].streams["labelled"].batch(0)
    image, label = first.image[:, 0].cpu().numpy(), first.labels.cpu().numpy()
    if image.ndim == 4:  # volumes: their middle slice
        image, label = image[..., image.shape[-1] // 2], label[..., label.shape[-1] // 2]
    picture = batch_grid(image, label, list(first.case_ids), setup.dataset.classes, plane_of(setup))
    (out / "first_batch.png").write_bytes(picture)


def plane_of(setup: Setup) -> Plane:
    """The plane that a picture of a sample shows: across the slice axis (2-D), axial for volumes."""
    if setup.recipe.preprocess.dims == 3:
        return "axial"
    header = read_header(setup.arrays.cases[0].images[0])
    _, affine, _ = to_canonical(np.broadcast_to(np.uint8(0), header.shape), header.affine)
    return PLANES[thickest_axis(affine)]


def _card(description: ModelDescription) -> str:
    t = description.trained
    return (
        f"# Segmentation model\n\nClasses: {', '.join(description.classes)}. "
        f"Channels: {', '.join(description.channels)}.\n\n"
        f"Network {description.network.kind}, {description.preprocess.dims}-D, "
        f"patch {description.preprocess.patch}.\n\n"
        f"Trained by {t['by']} ({' then '.join(t['methods'])}) on {t['labelled_cases']} labelled and "
        f"{t['unlabelled_cases']} unlabelled cases, seed {t['seed']}, split {t['split']}. Validation Dice "
        f"{t['validation_dice']:.4f} at step {t['selected_at_step']} ({t['candidate']}, {t['weights']} weights).\n\n"
        "Not a medical device. Validate on your own scans before any use.\n"
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
