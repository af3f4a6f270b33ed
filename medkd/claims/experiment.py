"""Experiments of many runs, hours together: what is planned, one JSON line a finished run, nothing done twice.

FOLDER/runs.jsonl   one line a finished run; a re-run skips what has one
FOLDER/work/        datasets and run folders; a run that was killed goes on from there

Phantom and real data, 2-D and 3-D, all pass through `run_missing`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

import medkd
from medkd.claims.accounting import (
    counts,
    images,
    list_hash,
    parameter_hash,
    processor,
    recipe_content,
    same_recipe,
    timed,
)
from medkd.claims.hidden_labels import HiddenLabels
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.dataset import read_dataset, write_whole
from medkd.engine.tracking import read_log
from medkd.errors import InputError
from medkd.runs.evaluate import evaluate
from medkd.runs.phases import network_maker
from medkd.runs.train import train

Line = dict[str, Any]
"""What is written of a finished run."""


@dataclass(frozen=True)
class Run:
    """One training of an experiment."""

    arm: str
    seed: int

    def __str__(self) -> str:
        return f"{self.arm} seed {self.seed}"


@dataclass(frozen=True)
class Aim:
    """What was wanted of an arm before it was measured: test Dice of at least `least`, or so much more than `over`."""

    arm: str
    least: float
    over: str | None = None

    def __str__(self) -> str:
        if self.over and self.least < 0:
            return f"{self.arm} at most {-self.least:.2f} below {self.over}"
        return f"{self.arm} at {self.least:.2f} or more{f' over {self.over}' if self.over else ''}"


@dataclass(frozen=True)
class Experiment:
    """What to run, in order, and how.

    claim: its name in `medkd reproduce`. words: what each arm is. budget: updates in words; a line of another budget
    belongs to another experiment. dataset(run, work): the dataset folder of a run, made under `work` if need be.
    comparisons: (better, worse) arms that the claim speaks of. caveat: what must be said beside every number. source:
    hash of the split of the data. aims: what was wanted, for the page to judge. credit: of whom the pictures show
    scans. shared: whether these pictures may stand in a repository. watched: runs whose pseudo-labels are scored
    against hidden labels. pictured: runs whose scans are drawn. stages: how the updates are spread, in words. setting:
    more for the page to say of data and training. taught_by: the run, earlier in the plan, whose shipped model is the
    teacher of a run. costed: whether to measure at the end what a scan costs the model of each arm.
    """

    claim: str
    name: str
    title: str
    words: Mapping[str, str]
    plan: tuple[Run, ...]
    budget: str
    labelled: int
    dataset: Callable[[Run, Path], Path]
    recipe: Callable[[Run, Path], Recipe]
    comparisons: tuple[tuple[str, str], ...]
    caveat: str
    command: str
    source: str
    aims: tuple[Aim, ...] = ()
    credit: str = ""
    shared: bool = True
    watched: Callable[[Run], bool] = lambda run: False
    pictured: Callable[[Run], bool] = lambda run: False
    stages: str = "stage 1 + stage 2; arms of one stage make their sum"
    setting: str = ""
    taught_by: Callable[[Run], Run | None] = lambda run: None
    costed: bool = False

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.arm for run in self.plan))

    @property
    def seeds(self) -> int:
        return 1 + max(run.seed for run in self.plan)


def run_missing(
    experiment: Experiment,
    folder: Path,
    after: Callable[[list[Line]], None] = lambda lines: None,
    console: Console | None = None,
) -> list[Line]:
    """Make every planned run that has no line yet, `after` each of which sees the lines so far; return them all."""
    folder.mkdir(parents=True, exist_ok=True)
    for run in experiment.plan:
        if run in finished(experiment, folder):
            continue
        if console:
            console.print(f"{experiment.name}: {run}")
        line = make(experiment, run, folder / "work", console)
        lines = folder / "runs.jsonl"
        write_whole(lines, "".join(json.dumps(row) + "\n" for row in [*read_lines(lines), line]))
        after(list(finished(experiment, folder).values()))
    return list(finished(experiment, folder).values())


def finished(experiment: Experiment, folder: Path) -> dict[Run, Line]:
    """The planned runs that have a line, in the order of the plan. A line of another budget or recipe is another run.

    Raises InputError if the lines come from another dataset.
    """
    lines = [line for line in read_lines(folder / "runs.jsonl") if line["budget"] == experiment.budget]
    strangers = {line["source"] for line in lines if line.get("source", experiment.source) != experiment.source}
    if strangers:
        raise InputError(
            f"{folder / 'runs.jsonl'} holds runs on the split {', '.join(sorted(strangers))}, the dataset given has "
            f"{experiment.source}; give another --out"
        )
    done: dict[Run, Line] = {}
    for run in experiment.plan:
        mine = [line for line in lines if Run(line["arm"], line["seed"]) == run]
        for line in mine:
            if same_recipe(line.get("recipe"), experiment.recipe(run, Path("data"))):
                done[run] = line
    return done


def read_lines(path: Path) -> list[Line]:
    """The lines of an experiment so far."""
    return read_log(path) if path.exists() else []


def run_folder(experiment: Experiment, run: Run, work: Path) -> Path:
    """Where a run trains: another budget is another folder."""
    return work / experiment.budget / f"seed_{run.seed}" / run.arm


def with_teacher(experiment: Experiment, run: Run, recipe: Recipe, work: Path) -> tuple[Recipe, str | None]:
    """The recipe with the model folder of the run's teacher, and the hash of its weights. Unchanged without one."""
    source = experiment.taught_by(run)
    if source is None:
        return recipe, None
    model = run_folder(experiment, source, work) / "model"
    if not model.exists():
        raise InputError(
            f"{run} learns from the model of {source}, which is not at {model}; take the line of {source} out of "
            f"{work.parent / 'runs.jsonl'} to train it again"
        )
    return recipe.model_copy(update={"teacher": str(model)}), parameter_hash(load_model(model).network)


def make(experiment: Experiment, run: Run, work: Path, console: Console | None) -> Line:
    """Train (or go on with) one run, evaluate its best and its last weights on the test patients; its line."""
    data = experiment.dataset(run, work)
    recipe, teacher = with_teacher(experiment, run, experiment.recipe(run, data), work)
    folder = run_folder(experiment, run, work)
    dataset = read_dataset(data)
    watch = HiddenLabels if experiment.watched(run) else None
    load_before = os.getloadavg()[0]
    with timed(folder) as clock:
        selection = train(recipe, folder, resume=(folder / "recipe.yaml").exists(), console=console, watch=watch)
    rows = read_log(folder / "log.jsonl")
    watched = {
        part: sum(row.get(f"{name}/hidden_{part}", 0.0) for row in rows for name in ("student", "teacher"))
        for part in ("seconds", "cpu_seconds")
    }
    start = network_maker(recipe, dataset)(0)
    line: Line = {
        "arm": run.arm,
        "seed": run.seed,
        "budget": experiment.budget,
        "seconds": round(clock.seconds - watched["seconds"], 1),
        "cpu_seconds": None if clock.cpu is None else round(clock.cpu - watched["cpu_seconds"], 1),
        "sessions": clock.sessions,
        "selected_at": [recipe.phases[-1].name, selection.step],
        "candidate": recipe.phases[-1].candidate,
        "validation_dice": selection.score,
    }
    for weights in ("best", "last"):
        pictures = experiment.pictured(run) and weights == "best"
        scores = evaluate(folder, data, "test", weights=weights, pictures=pictures).summary
        overall = scores["mean_over_classes"]
        line[f"dice_{weights}"] = overall["metrics"]["dice"]["mean"]
        line[f"missed_{weights}"] = overall["missed"]
        line[f"false_alarms_{weights}"] = overall["false_alarms"]
        groups = {**scores["classes"], "mean": overall}
        line[f"scores_{weights}"] = {n: {m: e["mean"] for m, e in g["metrics"].items()} for n, g in groups.items()}
    return line | {
        "source": experiment.source,
        "recipe": recipe_content(recipe),
        "updates": sum(phase.steps for phase in recipe.phases),
        **images(recipe),
        "split": dataset.fingerprint,
        "labelled": list_hash(dataset),
        "counts": counts(dataset),
        "start_weights": parameter_hash(start),
        "parameters": sum(p.numel() for p in start.parameters()),
        "weights": parameter_hash(load_model(folder).network),
        "teacher_weights": teacher,
        "validation": [row for row in rows if row["kind"] == "validation"],
        "load": [round(load_before, 2), round(os.getloadavg()[0], 2)],
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "torch": torch.__version__,
        "medkd": medkd.__version__,
        "command": experiment.command,
    }
