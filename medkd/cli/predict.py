"""medkd predict: new scans to masks, or new images to boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    model: Annotated[Path, typer.Argument(help="a model folder, or a run folder with one")],
    source: Annotated[
        Path, typer.Option("-i", "--input", help="a file or a folder: NIfTI; for detectors also PNG, JPEG")
    ],
    out: Annotated[Path, typer.Option("-o", "--output", help="a folder; for one mask also a .nii.gz file")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N")] = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="write again what exists")] = False,
) -> None:
    """Segment scans: each mask lies on its scan's own grid. Or detect: boxes in the pixels of each image as it is
    stored, as COCO JSON, CSV and pictures."""
    from rich.progress import Progress

    from medkd.errors import InputError
    from medkd.runs.predict import predict as run

    with Progress(transient=True) as bar:
        task = bar.add_task("images", total=None)
        done = run(
            model, source, out, device=device, overwrite=overwrite,
            progress=lambda n, total: bar.update(task, completed=n, total=total),
        )  # fmt: skip
    print(done.in_words())
    if done.refused:
        raise InputError(done.refused)
