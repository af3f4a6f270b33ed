"""Experiments on segmentation: what is planned, and how a run becomes a line (claims/runner.py makes what is missing).

Phantom and real data, 2-D and 3-D.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from medkd.claims.accounting import counts, images, list_hash, parameter_hash, recipe_content
from medkd.claims.hidden_labels import HiddenLabels
from medkd.claims.runner import Line, Planned, Run, run_folder, trained
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.dataset import read_dataset
from medkd.errors import InputError
from medkd.runs.evaluate import evaluate
from medkd.runs.phases import network_maker


@dataclass(frozen=True)
class Aim:
    """What was wanted of an arm before it was measured: test Dice of at least `least`, or so much more than `over`.

    note: what else to know of it.
    """

    arm: str
    least: float
    over: str | None = None
    note: str = ""

    def __str__(self) -> str:
        if self.over and self.least < 0:
            return f"{self.arm} at most {-self.least:.2f} below {self.over}"
        return f"{self.arm} at {self.least:.2f} or more{f' over {self.over}' if self.over else ''}"


@dataclass(frozen=True)
class Experiment(Planned):
    """claim: its name in `medkd reproduce`. labelled: patients. dataset(run, work): the dataset folder of a run, made
    under `work` if need be. comparisons: (better, worse) arms that the claim speaks of. aims: what was wanted, for the
    page to judge. credit: of whom the pictures show scans. shared: whether these pictures may stand in a repository.
    watched: runs whose pseudo-labels are scored against hidden labels. pictured: runs whose scans are drawn. stages:
    how the updates are spread, in words. setting: more for the page to say of data and training. taught_by: the run
    whose shipped model is the teacher of a run. costed: whether to measure, when all runs are there, what a scan costs
    the model of each arm.
    """

    claim: str
    labelled: int
    dataset: Callable[[Run, Path], Path]
    comparisons: tuple[tuple[str, str], ...]
    aims: tuple[Aim, ...] = ()
    credit: str = ""
    shared: bool = True
    watched: Callable[[Run], bool] = lambda run: False
    pictured: Callable[[Run], bool] = lambda run: False
    stages: str = "stage 1 + stage 2; arms of one stage make their sum"
    setting: str = ""
    taught_by: Callable[[Run], Run | None] = lambda run: None
    costed: bool = False

    def starts_from(self, run: Run) -> Run | None:
        return self.taught_by(run)

    def make(self, run: Run, work: Path, console: Console | None) -> Line:
        return make(self, run, work, console)

    def report(self, lines: list[Line], out: Path, more: str) -> None:
        from medkd.claims.diagnostics import draw_diagnostics
        from medkd.claims.page import write_page
        from medkd.claims.scan_scores import write_scan_scores

        write_scan_scores(self, out / self.name)
        draw_diagnostics(self, out / self.name)
        write_page(self, lines, out, more)

    def complete(self, folder: Path) -> bool:
        from medkd.claims.scan_cost import measure, read_cost

        return self.costed and not read_cost(self, folder) and measure(self, folder)

    def summary(self, lines: list[Line]) -> tuple[dict[str, Any], str]:
        from medkd.claims.verdict import summarise, table

        result = summarise(self, lines)
        return result, f"{table(result)}\nverdict: {result['verdict']}"


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
    done = trained(recipe, folder, console, watch)
    selection = done.selection
    start = network_maker(recipe, dataset)(0)
    line: Line = {
        "arm": run.arm,
        "seed": run.seed,
        "budget": experiment.budget,
        **done.cost,
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
        "validation": [row for row in done.rows if row["kind"] == "validation"],
        "command": experiment.command,
    }
