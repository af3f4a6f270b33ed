"""From images and boxes to a checked dataset folder for detection: pictures (PNG, JPEG) or volumes (NIfTI).

Everything is checked before anything is written, and every problem comes in one list. Boxes of unlabelled training
images go into a file of their own, which training never opens.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medkd.data.box_files import Annotated, BoxFile, read_box_file
from medkd.data.dataset import SPLITS, name_problems, write_whole
from medkd.data.detection_dataset import (
    ANNOTATIONS,
    HIDDEN,
    Boxes,
    DetectionDataset,
    box_problems,
    read_detection_dataset,
    write_detection_dataset,
)
from medkd.data.image_cases import ImageCase, Unit
from medkd.errors import raise_all
from medkd.runs.prepare_detection_report import write_detection_page
from medkd.runs.prepare_images import (
    Item,
    Labelled,
    channels_of,
    check_image,
    find_items,
    image_folder,
    named_cases,
    place,
    write_image,
)
from medkd.runs.prepare_names import Names, open_names
from medkd.runs.prepare_source import Source
from medkd.runs.prepare_write import PROGRESS, Progress, check_out, each

OF = "boxes' file"


def prepare_detection(
    source: Path,
    out: Path,
    *,
    boxes: Path | None = None,
    classes: tuple[str, ...] | None = None,
    split: tuple[float, ...] | None = None,
    labelled: Labelled = "all",
    seed: int = 0,
    patient_pattern: str | None = None,
    key: Path | None = None,
    keep_identifiers: bool = False,
    listed_only: bool = False,
    allow_burned_in: bool = False,
    dry_run: bool = False,
    about: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> DetectionDataset:
    """Check images and boxes and write the dataset folder `out`. Raises InputError that lists every problem.

    source: a folder of images (at any depth), or one with images/. boxes: COCO .json, .csv or a folder of VOC .xml
    (`read_box_file`), joined by the name of the image; None: nothing is annotated, and every image is for training.
    classes: names of the foreground in the order of the labels; default: the order of the COCO file, else
    alphabetical. split: shares of the patients for train, val and test, where the boxes' file has no column split.
    labelled: how many training patients are labelled, "all" or "none"; a column labelled counts instead.
    patient_pattern: one group, found at the start of an image's name: its patient. Without it, and without a column
    patient, every image stands alone, and dataset.yaml says `unit: image`; the header of a DICOM file says whose it
    is. key, keep_identifiers: as `prepare`. listed_only: leave out images that the boxes' file does not list.
    allow_burned_in: take DICOM images whose header says, or does not deny, that text is in the pixels.
    """
    source, out = Path(source), Path(out)
    continues = _continues(out)
    raise_all(name_problems("class", classes) if classes is not None else [])
    stated = read_box_file(boxes) if boxes else BoxFile()
    unit: Unit = "patient" if patient_pattern or any(one.patient for one in stated.images.values()) else "image"
    problems = list(stated.problems)
    items = find_items(image_folder(source), stated.images, OF, patient_pattern, unit, listed_only, problems)
    classes = classes or stated.classes or ("object",)
    boxes_of: dict[str, Boxes] = {}
    for name, found in each("check", lambda item: _check(item, classes, allow_burned_in), items, progress):
        if found is not None:
            boxes_of[name] = found
    if all(item.by_header for item in items):
        unit = "patient"
    problems += [f"image {item.name}: {problem}" for item in items for problem in item.problems]
    channels = channels_of(items, problems)
    drawn = place(items, split, labelled, seed, OF, problems)
    raise_all(problems)
    names = open_names(Source(), out, key, keep_identifiers, continues)
    pairs = named_cases(out, items, names)
    known = {case.id: boxes_of[item.name] for case, item in pairs if item.name in boxes_of}
    seen = {case.id: known[case.id] for case, _ in pairs if case.id in known and case.open_to_training}
    dataset = DetectionDataset(out, channels, classes, unit, tuple(case for case, _ in pairs), seen)
    if dry_run:
        return dataset
    decisions = {"boxes": boxes.suffix or "VOC" if boxes else "none", **drawn, "unit": unit, "notes": stated.notes}
    hidden = {name: boxes for name, boxes in known.items() if name not in seen}
    _write(dataset, hidden, pairs, names, dict(about or {}), decisions, progress)
    return read_detection_dataset(out)


def _continues(out: Path) -> bool:
    """As `check_out`, whose list of our files lacks those of boxes."""
    for name in (ANNOTATIONS, HIDDEN):
        if (out / PROGRESS).exists():
            (out / name).unlink(missing_ok=True)  # written in an instant, and anew
    return check_out(out)


def _check(item: Item, classes: Sequence[str], allow_burned_in: bool) -> tuple[str, Boxes | None]:
    """Read the image to its end and look at each box. Returns its name and its boxes, None where there are none."""
    check_image(item, allow_burned_in)
    said = item.said
    if not item.shape or not isinstance(said, Annotated):
        return item.name, None
    stated, dims = said.size, len(item.shape)
    if stated and dims == 2 and stated != item.shape[::-1]:
        item.problems.append(f"its boxes were drawn on {stated[0]} x {stated[1]} pixels, it has {item.shape[::-1]}")
    if unknown := sorted({name for name, _ in said.boxes if name not in classes}):
        item.problems.append(f"classes {', '.join(unknown)}; allowed: {', '.join(classes)}")
        return item.name, None
    if any(len(corners) != 2 * dims for _, corners in said.boxes):
        item.problems.append(f"a box has not {2 * dims} corners")
        return item.name, None
    values = np.array([corners for _, corners in said.boxes], np.float32).reshape(-1, 2 * dims)
    boxes = Boxes(values, np.array([classes.index(name) for name, _ in said.boxes], np.int64))
    item.problems += box_problems(boxes, item.shape, len(classes))
    return item.name, boxes


def _write(
    dataset: DetectionDataset,
    hidden: Mapping[str, Boxes],
    pairs: Sequence[tuple[ImageCase, Item]],
    names: Names,
    about: dict[str, str],
    decisions: dict[str, Any],
    progress: Progress | None,
) -> None:
    out = dataset.root
    (out / "images").mkdir(parents=True, exist_ok=True)
    if names.key:
        names.key.save()
    write_whole(out / PROGRESS, json.dumps({"work": dataset.fingerprint}))
    for _ in each("write", write_image, pairs, progress):
        pass
    report = {
        "cases": len(dataset.cases),
        "splits": {name: len(dataset.select(name)) for name in SPLITS},
        "labelled": len(dataset.select("train", labelled=True)),
        "boxes": {
            f"{name} ({split})": sum(int((dataset.boxes[c.id].labels == k).sum()) for c in dataset.select(split)
                                     if c.id in dataset.boxes)
            for k, name in enumerate(dataset.classes) for split in SPLITS
        },
        "images with hidden boxes": len(hidden),
        "changed": "pictures keep their pixels to the last bit and lose EXIF, comments and other text",
        "decisions": decisions,
    }  # fmt: skip
    write_whole(out / "report.json", json.dumps(report, indent=1, default=str))
    write_detection_page(dataset, report, len(hidden), names.key is not None)
    write_detection_dataset(dataset, about, hidden)
    (out / PROGRESS).unlink()
