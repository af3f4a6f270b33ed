"""medkd evaluate: a model's scores on the held-out cases of a dataset."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def evaluate(
    model: Annotated[Path, typer.Argument(help="a run folder, or a model folder")],
    data: Annotated[Path, typer.Option(help="the dataset folder")],
    split: Annotated[Literal["val", "test"], typer.Option(help="which cases")] = "test",
    weights: Annotated[
        Literal["best", "last"] | None, typer.Option(help="of a run folder; default: what the run shipped")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="where to write; default RUN/evaluation/SPLIT")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="print the summary as JSON")] = False,
) -> None:
    """Score a model, with intervals over patients.

    Segmentation: Dice, Jaccard, HD95, ASSD, NSD per class, on each scan's own grid.

    Detection: AP50 and AP per class (3-D: AP10, AP25, AP50), in the pixels of each image as it is stored; intervals
    over images where the dataset does not know the patients.

    Classification: sensitivity, specificity and AUC per class, balanced accuracy, calibration.
    """
    from rich.progress import Progress

    from medkd.runs.evaluate import evaluate as run

    with Progress(transient=True) as bar:
        task = bar.add_task("cases", total=None)
        done = run(
            model, data, split, out=out, weights=weights, device=device,
            progress=lambda n, total: bar.update(task, completed=n, total=total),
        )  # fmt: skip
    if as_json:
        print(json.dumps(done.summary, indent=1))
        return
    headers, rows = done.table
    from rich.console import Console
    from rich.table import Column, Table

    table = Table(*(Column(header, overflow="fold") for header in headers))
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    print(f"per case: {done.folder / 'cases.csv'}\nreport:   {done.folder / 'report.html'}")
