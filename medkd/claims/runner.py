"""Experiments of many runs, hours together: what is planned, one JSON line a finished run, nothing done twice.

FOLDER/runs.jsonl   one line a finished run; a re-run skips what has one
FOLDER/work/        datasets and run folders; a run that was killed goes on from there

Every long experiment passes through `run_missing`, whatever its task. The same command may run in several processes on
one FOLDER: each takes runs that no other is making.
"""

from __future__ import annotations

import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from medkd.claims.accounting import Clock, machine, same_recipe, timed
from medkd.config.recipe import Recipe
from medkd.data.dataset import write_whole
from medkd.engine.selection import Selection
from medkd.engine.task import Task
from medkd.engine.tracking import read_log
from medkd.errors import InputError
from medkd.runs.tasks.protocol import Setup
from medkd.runs.train import train

try:
    import fcntl
except ImportError:  # not a POSIX system: one process a folder
    fcntl = None  # type: ignore[assignment]

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
class Planned(ABC):
    """A long experiment: what to run, in order, and how. A task derives its own, which makes a run and tells of them.

    words: what each arm is. budget: updates in words; a line of another budget belongs to another experiment.
    recipe(run, data): of a run on a dataset folder. caveat: what must be said beside every number. source: hash of the
    split of the data.
    """

    name: str
    title: str
    words: Mapping[str, str]
    plan: tuple[Run, ...]
    budget: str
    recipe: Callable[[Run, Path], Recipe]
    caveat: str
    command: str
    source: str

    @property
    def arms(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(run.arm for run in self.plan))

    @property
    def seeds(self) -> int:
        return 1 + max(run.seed for run in self.plan)

    def starts_from(self, run: Run) -> Run | None:
        """The run whose model this one starts from; it is made first."""
        return None

    @abstractmethod
    def make(self, run: Run, work: Path, console: Console | None) -> Line:
        """Train (or go on with) one run under `work` and score it; its line."""

    @abstractmethod
    def report(self, lines: list[Line], out: Path, more: str) -> None:
        """Write OUT/NAME.md and its figures from the finished lines; `more` is added to the page."""

    def complete(self, folder: Path) -> bool:
        """Called when every run has a line: whether something was measured that the report is to say."""
        return False

    @abstractmethod
    def summary(self, lines: list[Line]) -> tuple[dict[str, Any], str]:
        """What the lines say, for a machine and for a console."""


def run_missing(
    experiment: Planned,
    folder: Path,
    after: Callable[[list[Line]], None] = lambda lines: None,
    console: Console | None = None,
) -> list[Line]:
    """Make every planned run that has no line yet, `after` each of which sees the lines so far; return them all.

    A run that another process is making is left to it, unless a run here starts from it: then it is waited for.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def make(run: Run, wait: bool) -> None:
        if run in finished(experiment, folder):
            return
        with claimed(run_folder(experiment, run, folder / "work").with_suffix(".lock"), wait) as mine:
            if not mine or run in finished(experiment, folder):
                return
            if first := experiment.starts_from(run):
                make(first, wait=True)
            if console:
                console.print(f"{experiment.name}: {run}")
            line = experiment.make(run, folder / "work", console)
            with claimed(folder / "work" / "lines.lock", wait=True):
                lines = folder / "runs.jsonl"
                write_whole(lines, "".join(json.dumps(row) + "\n" for row in [*read_lines(lines), line]))
                after(list(finished(experiment, folder).values()))

    for run in experiment.plan:
        make(run, wait=False)
    return list(finished(experiment, folder).values())


@contextmanager
def claimed(lock: Path, wait: bool) -> Iterator[bool]:
    """Whether this process has `lock` to itself inside. The system frees the lock of a process that dies."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("w") as file:
        if fcntl is not None:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            except BlockingIOError:
                yield False
                return
        yield True


def finished(experiment: Planned, folder: Path) -> dict[Run, Line]:
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


def run_folder(experiment: Planned, run: Run, work: Path) -> Path:
    """Where a run trains: another budget is another folder."""
    return work / experiment.budget / f"seed_{run.seed}" / run.arm


@dataclass(frozen=True)
class Trained:
    """A finished training: its log, which weights were chosen, and what a line says of time and machine."""

    rows: list[dict[str, Any]]
    selection: Selection
    cost: Line


def trained(
    recipe: Recipe, folder: Path, console: Console | None, watch: Callable[[Setup], Task] | None = None
) -> Trained:
    """Train, or go on with, the run in `folder`. Its time is without what hidden labels took."""
    before = os.getloadavg()[0]
    with timed(folder) as clock:
        selection = train(recipe, folder, resume=(folder / "recipe.yaml").exists(), console=console, watch=watch)
    rows = read_log(folder / "log.jsonl")
    return Trained(rows, selection, {**_time(clock, rows), "load": [round(before, 2), round(os.getloadavg()[0], 2)]})


def _time(clock: Clock, rows: list[dict[str, Any]]) -> Line:
    watched = {
        part: sum(value for row in rows for name, value in row.items() if name.endswith(f"/hidden_{part}"))
        for part in ("seconds", "cpu_seconds")
    }
    return {
        "seconds": round(clock.seconds - watched["seconds"], 1),
        "cpu_seconds": None if clock.cpu is None else round(clock.cpu - watched["cpu_seconds"], 1),
        "sessions": clock.sessions,
        **machine(),
    }
