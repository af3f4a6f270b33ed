"""medkd prepare: scans and labels to a checked dataset folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated

import typer


def prepare(
    source: Annotated[Path, typer.Argument(help="a folder of NIfTI images, or with images/ and labels/")],
    out: Annotated[Path, typer.Option(help="the dataset folder to write")],
    labels: Annotated[Path | None, typer.Option(help="the folder of labels, named like their images")] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="CSV: case, patient, and where known split, labelled or train_order, image, label"),
    ] = None,
    classes: Annotated[str | None, typer.Option(help="names by label value: background,rv,myo,lv")] = None,
    channels: Annotated[str, typer.Option(help="names of the channels: t1,t2; files CASE_0000, CASE_0001")] = "image",
    split: Annotated[str | None, typer.Option(help="shares of the patients, train/val/test: 0.7/0.1/0.2")] = None,
    labelled: Annotated[int | None, typer.Option(help="how many training patients are labelled")] = None,
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
    patient_pattern: Annotated[
        str, typer.Option(help="regular expression, one group: the patient in a name")
    ] = "([^_]+)",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check only, write nothing")] = False,
) -> None:
    """Check every scan and label, split by patient, and write the dataset folder."""
    from rich.progress import Progress

    from medkd.errors import InputError
    from medkd.runs.prepare import prepare as run

    try:
        shares = tuple(float(v) for v in split.split("/")) if split else None
    except ValueError:
        raise InputError(f"--split is {split!r}; write three shares, 0.7/0.1/0.2") from None
    with Progress(transient=True) as bar:
        task = bar.add_task("check", total=None)
        dataset = run(
            source, out, labels=labels, table=table,
            classes=_names(classes) if classes else None, channels=_names(channels),
            split=shares, labelled=labelled, seed=seed, patient_pattern=patient_pattern, dry_run=dry_run,
            progress=lambda stage, n, total: bar.update(task, description=stage, completed=n, total=total),
        )  # fmt: skip
    for name in ("train", "val", "test"):
        cases = dataset.select(name)
        print(f"{name:5} {len({c.patient for c in cases}):4} patients {len(cases):5} cases")
    chosen = dataset.select("train", labelled=True)
    print(f"labelled: {len({c.patient for c in chosen})} training patients, {len(chosen)} cases")
    if dry_run:
        print("nothing was written: leave out --dry-run to write the dataset")
    else:
        print(f"next: medkd train configs/segmentation/bcp_acdc_3.yaml {shlex.quote(f'data={out}')} --out RUN")


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
