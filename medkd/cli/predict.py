"""medkd predict: new scans to masks, new images to boxes or to the probabilities of classes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Argument(help="a model folder, or a run folder with one")],
    source: Annotated[Path, typer.Option("-i", "--input", help="a NIfTI file or a picture, or a folder of them")],
    out: Annotated[
        Path,
        typer.Option("-o", "--output", help="a folder, or a .nii.gz file for one mask"),
    ],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="write again what exists")] = False,
) -> None:
    """Write a model's answers: masks on each scan's own grid, boxes in each image's own pixels, or probabilities."""
    from rich.progress import Progress

    from medkd.errors import InputError
    from medkd.runs.predict import predict as run

    with Progress(transient=True) as bar:
        task = bar.add_task("scans", total=None)
        done = run(
            model, source, out, device=device, overwrite=overwrite,
            progress=lambda n, total: bar.update(task, completed=n, total=total),
        )  # fmt: skip
    print(
        f"files: {len(done.written)} written, {len(done.kept)} kept (they existed); images refused: {len(done.refused)}"
    )
    if done.refused:
        raise InputError(done.refused)
