"""medkd predict: new scans to masks, new images to boxes or to the probabilities of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Argument(help="a model folder, or a run folder with one")],
    source: Annotated[
        Path, typer.Option("-i", "--input", help="a NIfTI file or a picture, or a folder of them; or a dataset")
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="a folder, or a .nii.gz file for one mask")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="write again what exists")] = False,
    logits: Annotated[
        bool, typer.Option("--logits", help="of a dataset's training cases, to be a recipe's teacher: FOLDER")
    ] = False,
) -> None:
    """Write a model's answers: masks on each scan's own grid, boxes in each image's own pixels, or probabilities.

    With --logits: store what a teacher says of a dataset.
    """
    from rich.progress import Progress

    from medkd.errors import InputError
    from medkd.runs.predict import predict as segment
    from medkd.runs.signals import store_signals

    with Progress(transient=True) as bar:
        task = bar.add_task("images", total=None)
        run = store_signals if logits else segment
        done = run(
            model, source, out, device=device, overwrite=overwrite,
            progress=lambda n, total: bar.update(task, completed=n, total=total),
        )  # fmt: skip
    print(done.in_words())
    if done.refused:
        raise InputError(done.refused)
