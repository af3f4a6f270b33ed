"""medkd prepare: scans with labels, or images with boxes or classes, to a checked dataset folder."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from medkd.data.dataset import DatasetFolder

IMAGES = "Boxes and classes of images"
ARCHIVE = "DICOM archives"
PRIVACY = "Privacy"


def prepare(
    source: Annotated[
        Path,
        typer.Argument(
            help="a folder of NIfTI or NRRD images, or with images/ and labels/; a DICOM archive: a folder as "
            "exported, a zip, a DICOMDIR; for classification a folder with a folder a class"
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
        typer.Option(
            help="CSV: case, patient, and where known split, labelled or train_order, image, label; for classification "
            "image, label, and where known patient, split, labelled"
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            help="names by label value: background,rv,myo,lv; of SEG and RTSTRUCT the structures to take; for "
            "classification the order of the classes"
        ),
    ] = None,
    channels: Annotated[str, typer.Option(help="names of the channels: t1,t2; files CASE_0000, CASE_0001")] = "image",
    split: Annotated[str | None, typer.Option(help="shares of the patients, train/val/test: 0.7/0.1/0.2")] = None,
    labelled: Annotated[
        str | None,
        typer.Option(help="how many training patients are labelled; with boxes and classes also all (default) or none"),
    ] = None,
    seed: Annotated[int, typer.Option(help="of the split")] = 0,
    patient_pattern: Annotated[
        str | None,
        typer.Option(
            help="regular expression, one group: the patient in a name; default: what stands before the first _, with "
            "boxes and classes: every image stands alone"
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="check only, write nothing")] = False,
    boxes: Annotated[
        Path | None,
        typer.Option(
            help="for detection: COCO .json, .csv (image, label, xmin, ymin, xmax, ymax) or a folder of VOC .xml",
            rich_help_panel=IMAGES,
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(
            help="segmentation, detection or classification; default: detection where --boxes is given, else "
            "segmentation",
            rich_help_panel=IMAGES,
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
    """Check every scan and label, or image with its boxes or class, split by patient, and write the dataset folder.

    Of a folder of files every problem is listed, and nothing is written
    while there is one. Of a DICOM archive a series that is broken or has no
    trustworthy geometry is left out, with its reason here and in report.html;
    several candidates in one study are an error that lists them.
    """
    from rich.progress import Progress

    from medkd.errors import InputError
    from medkd.runs.archive_cases import Choice
    from medkd.runs.prepare import prepare as run
    from medkd.runs.prepare_classification import prepare_classification
    from medkd.runs.prepare_detection import prepare_detection
    from medkd.runs.prepare_names import default_key
    from medkd.runs.prepare_source import PATIENT

    choice = Choice(modality, series, pick, allow_resample, allow_burned_in, in_order)
    task = _task(task, boxes)
    single = task != "segmentation"
    table_counts = task != "detection"
    if single and (labels or (table and not table_counts) or channels != "image" or choice != Choice()):
        what = "--labels, --channels" if table_counts else "--labels, --table, --channels"
        raise InputError(f"{what} and the options of DICOM archives have no effect on {task}")
    with Progress(transient=True) as bar:
        shown = bar.add_task("read headers", total=None)

        def progress(stage: str, n: int, total: int) -> None:
            bar.update(shown, description=stage, completed=n, total=total)

        dataset: DatasetFolder
        every: dict[str, Any] = {
            "classes": _names(classes) if classes else None, "split": _shares(split), "seed": seed, "key": key,
            "keep_identifiers": keep_identifiers, "dry_run": dry_run, "progress": progress,
        }  # fmt: skip
        if single:
            every |= {"labelled": _labelled(labelled, "all"), "patient_pattern": patient_pattern}
        if task == "detection":
            dataset = prepare_detection(source, out, boxes=boxes, **every)
        elif task == "classification":
            dataset = prepare_classification(source, out, table=table, **every)
        else:
            dataset = run(
                source, out, labels=labels, table=table, channels=_names(channels), labelled=_labelled(labelled),
                patient_pattern=patient_pattern or PATIENT, choice=choice, **every,
                say=lambda line: bar.console.print(line, markup=False, highlight=False, soft_wrap=True),
            )  # fmt: skip
    _count(dataset)
    if dry_run:
        print("nothing was written: leave out --dry-run to write the dataset")
        return
    _say_what_next(task, out, None if keep_identifiers or (table and not single) else key or default_key(out))


def _say_what_next(task: str, out: Path, private: Path | None) -> None:
    print(f"look at: {out / ('report.json' if task == 'classification' else 'report.html')}")
    if private:
        print(f"private: {private} says whose each case is; keep it, do not pass it on")
    if task == "segmentation":
        recipe = "configs/segmentation/bcp_acdc_3.yaml"
        print(f"next, in a clone of medkd: medkd train {recipe} {shlex.quote(f'data={out}')} --out RUN")


def _count(dataset: DatasetFolder) -> None:
    for name in ("train", "val", "test"):
        cases = dataset.select(name)
        print(f"{name:5} {len({c.patient for c in cases}):4} patients {len(cases):5} cases")
    chosen = dataset.select("train", labelled=True)
    print(f"labelled: {len({c.patient for c in chosen})} training patients, {len(chosen)} cases")


def _task(task: str | None, boxes: Path | None) -> str:
    from medkd.errors import InputError

    allowed = ("segmentation", "detection", "classification")
    if task not in (None, *allowed):
        raise InputError(f"--task is {task!r}; allowed: {', '.join(allowed)}")
    if boxes and task not in (None, "detection"):
        raise InputError(f"--boxes has no effect on {task}; leave it out, or --task")
    return task or ("detection" if boxes else "segmentation")


def _shares(split: str | None) -> tuple[float, ...] | None:
    from medkd.errors import InputError

    try:
        return tuple(float(share) for share in split.split("/")) if split else None
    except ValueError:
        raise InputError(f"--split is {split!r}; write three shares, 0.7/0.1/0.2") from None


def _labelled(text: str | None, default: Any = None) -> Any:
    """A number of patients; where there is a default also all or none."""
    from medkd.errors import InputError

    if text is None or (default and text in ("all", "none")):
        return text or default
    if not text.isdecimal():
        also = ", all or none" if default else ""
        raise InputError(f"--labelled is {text!r}; allowed: a number of patients{also}")
    return int(text)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))
