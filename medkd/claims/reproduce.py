"""Runs an experiment and keeps its page up to date: after every finished run the page says what is known so far."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from rich.console import Console

from medkd.claims.diagnostics import draw_diagnostics
from medkd.claims.experiment import Experiment, Line, finished, run_missing
from medkd.claims.page import write_page


def reproduce(
    experiment: Experiment, out: Path, *, page_only: bool = False, console: Console | None = None, more: str = ""
) -> list[Line]:
    """Make the missing runs in OUT/NAME/ and write OUT/NAME.md; return the lines of the finished runs.

    page_only: make no run. more: what is added to the page.
    """
    folder = out / experiment.name
    after = partial(_after, experiment, out, more)
    after(list(finished(experiment, folder).values()))
    return list(finished(experiment, folder).values()) if page_only else run_missing(experiment, folder, after, console)


def _after(experiment: Experiment, out: Path, more: str, lines: list[Line]) -> None:
    draw_diagnostics(experiment, out / experiment.name)
    write_page(experiment, lines, out, more)
