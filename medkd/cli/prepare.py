"""medkd prepare: scans with labels, or images with boxes, to a checked dataset folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

DETECTION = "Boxes"
ARCHIVE = "DICOM archives"
PRIVACY = "Privacy"


def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="a folder of NIfTI or NRRD images, or with images/ and labels/; or a DICOM archive: a folder as "
            "exported, a zip, a DICOMDIR"
        ),
    ],
    out: Annotated[Path, typer.Option(help="the dataset folder to write")],
    labels: Annotated[
        Path | None,
        typer.Option(
            help="labels: a folder of files named like their images; of an archive DICOM SEG, RTSTRUCT, NIfTI or NRRD"
        ),
    ] = None,
    table: Annotated[
        Path | None,
        typer.Option(help="CSV: case, patient, and where known split, labelled or train_order, image, label"),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(help="names by label value: background,rv,myo,lv; of SEG and RTSTRUCT the structures to take"),
    ] = None,
    channels: Annotated[str, typer.Option(help="names of the channels: t1,t2; files CASE_0000, CASE_0001")] = "image",
    split: Annotated[str | None, typer.Option(help="shares of the patients, train/val/test: 0.7/0.1/0.2")] = None,
    labelled: Annotated[
        str | None, typer.Option(help="how many training patients are labelled; with boxes also all (default) or none")
    ] = None,
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
    patient_pattern: Annotated[
        str | None,
        typer.Option(
            help="regular expression, one group: the patient in a name; default: what stands before the first _, with "
            "boxes: every image stands alone"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check only, write nothing")] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="for detection: COCO .json, .csv (image, label, xmin, ymin, xmax, ymax) or a folder of VOC .xml",
            rich_help_panel=DETECTION,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="segmentation or detection; default: detection where --boxes is given", rich_help_panel=DETECTION
        ),
    ] = None,
    modality: Annotated[str | None, typer.Option(help="take series of this modality", rich_help_panel=ARCHIVE)] = None,
    series: Annotated[
        str | None,
        typer.Option(help="take series whose description matches this regular expression", rich_help_panel=ARCHIVE),
    ] = None,
    pick: Annotated[
        Path | None,
        typer.Option(
            help="CSV: series (UID), and where wanted volume, patient, split, labelled, train_order",
            rich_help_panel=ARCHIVE,
        ),
    ] = None,
    allow_resample: Annotated[
        bool,
        typer.Option("--allow-resample", help="interpolate uneven or tilted slices", rich_help_panel=ARCHIVE),
    ] = False,
    allow_burned_in: Annotated[
        bool,
        typer.Option("--allow-burned-in", help="take images that may show text", rich_help_panel=ARCHIVE),
    ] = False,
    in_order: Annotated[
        bool,
        typer.Option(
            "--in-order", help="where structures overlap, keep the class named later", rich_help_panel=ARCHIVE
        ),
    ] = False,
    key: Annotated[
        Path | None,
        typer.Option(
            help="the private file that says which name is which patient and file; default: beside OUT, "
            "OUT.private.csv. With an older one, patients keep their names",
            rich_help_panel=PRIVACY,
        ),
    ] = None,
    keep_identifiers: Annotated[
        bool,
        typer.Option(
            "--keep-identifiers",
            help="keep the names of files and the numbers of patients; else they become keyed hashes, unless a "
            "--table states them",
            rich_help_panel=PRIVACY,
        ),
    ] = False,
) -> None:
    """Check every scan and label, or image and box, split by patient, and write the dataset folder.

    Of a folder of files every problem is listed, and nothing is written
    while there is one. Of a DICOM archive a series that is broken or has no
    trustworthy geometry is left out, with its reason here and in report.html;
    several candidates in one study are an error that lists them.
    """
    from rich.progress import Progress

    from medkd.data.dataset import Dataset
    from medkd.data.detection_dataset import DetectionDataset
    from medkd.errors import InputError
    from medkd.runs.archive_cases import Choice
    from medkd.runs.prepare import prepare as run
    from medkd.runs.prepare_detection import prepare_detection
    from medkd.runs.prepare_names import default_key
    from medkd.runs.prepare_source import PATIENT

    choice = Choice(modality, series, pick, allow_resample, allow_burned_in, in_order)
    detection = _is_detection(task, boxes)
    if detection and (labels or table or channels != "image" or choice != Choice()):
        raise InputError(
            "--labels, --table, --channels and the options of DICOM archives have no effect on images with boxes"
        )
    try:
        shares = tuple(float(v) for v in split.split("/")) if split else None
    except ValueError:
        raise InputError(f"--split is {split!r}; write three shares, 0.7/0.1/0.2") from None
    with Progress(transient=True) as bar:
        shown = bar.add_task("read headers", total=None)
        names = _names(classes) if classes else None

        def progress(stage: str, n: int, total: int) -> None:
            bar.update(shown, description=stage, completed=n, total=total)

        if detection:
            dataset: Dataset | DetectionDataset = prepare_detection(
                source, out, boxes=boxes, classes=names, split=shares, labelled=_labelled(labelled, "all"), seed=seed,
                patient_pattern=patient_pattern, key=key, keep_identifiers=keep_identifiers, dry_run=dry_run,
                progress=progress,
            )  # fmt: skip
        else:
            dataset = run(
                source, out, labels=labels, table=table, classes=names, channels=_names(channels),
                split=shares, labelled=_labelled(labelled), seed=seed, patient_pattern=patient_pattern or PATIENT,
                choice=choice, key=key, keep_identifiers=keep_identifiers, dry_run=dry_run, progress=progress,
                say=lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True),
            )  # fmt: skip
    for name in ("train", "val", "test"):
        cases = dataset.select(name)
        print(f"{name:5} {len({c.patient for c in cases}):4} patients {len(cases):5} cases")
    chosen = dataset.select("train", labelled=True)
    print(f"labelled: {len({c.patient for c in chosen})} training patients, {len(chosen)} cases")
    if dry_run:
        print("nothing was written: leave out --dry-run to write the dataset")
    else:
        print(f"look at: {out / 'report.html'}")
        if not (keep_identifiers or table):
            print(f"private: {key or default_key(out)} says whose each case is; keep it, do not pass it on")
        if not detection:
            print(f"next: medkd train configs/segmentation/bcp_acdc_3.yaml {shlex.quote(f'data={out}')} --out RUN")


def _is_detection(task: str | None, boxes: Path | None) -> bool:
    from medkd.errors import InputError

    if task not in (None, "segmentation", "detection"):
        raise InputError(f"--task is {task!r}; allowed: segmentation, detection")
    if task == "segmentation" and boxes:
        raise InputError("--boxes has no effect on segmentation; leave it out, or --task")
    return task == "detection" or boxes is not None


def _labelled(text: str | None, default: Any = None) -> Any:
    """A number of patients; with boxes (which have a default) also all or none."""
    from medkd.errors import InputError

    if text is None or (default and text in ("all", "none")):
        return text or default
    if not text.isdecimal():
        also = ", all or none" if default else ""
        raise InputError(f"--labelled is {text!r}; allowed: a number of patients{also}")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
