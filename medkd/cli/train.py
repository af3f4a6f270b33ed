"""medkd train: a recipe to a run folder with a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer


def train(
    recipe: Annotated[Path, typer.Argument(help="a recipe, for example configs/segmentation/bcp_acdc_3.yaml")],
    overrides: Annotated[list[str] | None, typer.Argument(help="data=DATASET phases.selftrain.steps=600 ...")] = None,
    out: Annotated[Path, typer.Option(help="the run folder")] = ...,  # type: ignore[assignment]
    resume: Annotated[bool, typer.Option("--resume", help="continue a killed run exactly")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="delete the run that is there")] = False,
) -> None:
    """Train a recipe on a prepared dataset. Several processes: torchrun --nproc-per-node N -m medkd train ...

    SIGTERM and Ctrl-C end it after the current step with a checkpoint and exit code 3.
    """
    from medkd.config.load import load_recipe

    loaded = load_recipe(recipe, overrides)

    from rich.console import Console

    from medkd.runs.tasks.protocol import in_words
    from medkd.runs.train import train as run

    console = Console(stderr=True)
    selection = run(loaded, out, resume=resume, overwrite=overwrite, console=console)
    if os.environ.get("RANK", "0") != "0":
        return  # under torchrun the first process speaks
    print(f"validation {loaded.score} {in_words(selection.score)} at step {selection.step} of the last phase")
    print(f"model:  {out / 'model'}\nreport: {out / 'report.html'}")
    print(f"next:   medkd evaluate {out} --data {loaded.data} --split test")
