"""From images and boxes to a checked dataset folder for detection: pictures (PNG, JPEG) or volumes (NIfTI).

Everything is checked before anything is written, and every problem comes in one list. Boxes of unlabelled training
images go into a file of their own, which training never opens.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from medkd.data import image_files
from medkd.data.box_files import Annotated, BoxFile, read_box_file
from medkd.data.dataset import SPLITS, name_problems, split_problems, write_whole
from medkd.data.detection_dataset import (
    ANNOTATIONS,
    HIDDEN,
    Boxes,
    DetectionCase,
    DetectionDataset,
    Unit,
    box_problems,
    open_to_training,
    read_detection_dataset,
    write_detection_dataset,
)
from medkd.data.scan_files import VolumeFile
from medkd.data.splits import choose_labelled, share_problems, shuffled, split_patients
from medkd.errors import InputError, raise_all
from medkd.imaging import nifti
from medkd.imaging.dicom.picture import read_picture
from medkd.imaging.nifti import write_nifti
from medkd.runs.prepare_detection_report import write_detection_page
from medkd.runs.prepare_names import Names, open_names
from medkd.runs.prepare_source import NO, SHARES, YES, Found, Source
from medkd.runs.prepare_write import PROGRESS, Progress, check_out, each

DICOM = (".dcm", ".dicom")
SUFFIXES = (*image_files.SUFFIXES, *DICOM, *nifti.SUFFIXES)
Labelled = int | Literal["all", "none"]


@dataclass
class Item:
    """One image of the source: what its boxes' file says of it (None: not listed), and what it holds."""

    name: str
    path: Path
    said: Annotated | None
    patient: str
    split: str = ""
    labelled: bool = False
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    channels: int = 1
    by_header: bool = False
    boxes: Boxes | None = None
    problems: list[str] = field(default_factory=list)


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
    items = _items(source, stated, patient_pattern, unit, listed_only, problems)
    classes = classes or stated.classes or ("object",)
    for _ in each("check", lambda item: _check(item, classes, allow_burned_in), items, progress):
        pass
    if all(item.by_header for item in items):
        unit = "patient"
    problems += [f"image {item.name}: {problem}" for item in items for problem in item.problems]
    channels = {item.channels for item in items if item.shape}
    if len(channels) > 1 or len({len(item.shape) for item in items if item.shape}) > 1:
        problems.append("some images are grey and some in colour, or some flat and some volumes; prepare them apart")
    drawn = _place(items, split, labelled, seed, boxes is not None, problems)
    raise_all(problems)
    names = open_names(Source(), out, key, keep_identifiers, continues)
    colour = ("red", "green", "blue") if channels == {3} else ("image",)
    dataset, hidden, order = _dataset(out, items, colour, classes, unit, names)
    if dry_run:
        return dataset
    decisions = {"boxes": boxes.suffix or "VOC" if boxes else "none", **drawn, "unit": unit, "notes": stated.notes}
    _write(dataset, hidden, order, names, dict(about or {}), decisions, progress)
    return read_detection_dataset(out)


def _continues(out: Path) -> bool:
    """As `check_out`, whose list of our files lacks those of boxes."""
    for name in (ANNOTATIONS, HIDDEN):
        if (out / PROGRESS).exists():
            (out / name).unlink(missing_ok=True)  # written in an instant, and anew
    return check_out(out)


def _items(
    source: Path, stated: BoxFile, pattern: str | None, unit: Unit, listed_only: bool, problems: list[str]
) -> list[Item]:
    """The images of the source with what is said of each, joined by name: path below the folder, file name, or stem."""
    if not source.is_dir():
        raise InputError(f"no folder at {source}")
    folder = source / "images" if (source / "images").is_dir() else source
    files = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))
    if not files:
        raise InputError(f"no image ({', '.join(SUFFIXES)}) in {folder}")
    by_name: dict[str, set[Path]] = defaultdict(set)
    for path in files:
        for name in (path.relative_to(folder).as_posix(), path.name, _stem(path)):
            by_name[name].add(path)
    said: dict[Path, Annotated] = {}
    for name, one in stated.images.items():
        found = by_name.get(name) or by_name.get(_stem(Path(name))) or set()
        if len(found) == 1 and (path := next(iter(found))) not in said:
            said[path] = one
        else:
            why = "no such image" if not found else "several images, or several entries, of this name"
            problems.append(f"image {name!r} of the boxes: {why} in {folder}")
    if listed_only:
        files = [path for path in files if path in said]
    twice = {stem for stem, n in Counter(_stem(path) for path in files).items() if n > 1}
    items = []
    for path in files:
        name = _stem(path)
        if name in twice:
            name = "_".join((*path.relative_to(folder).parent.parts, name))
        match = re.match(pattern, name) if pattern else None
        patient = said[path].patient if path in said else ""
        if pattern and not patient and (not match or not match.groups() or not match[1]):
            problems.append(f"image {name}: the name does not match the patient pattern {pattern!r} with one group")
        patient = patient or (match[1] if match and match.groups() else "") or (name if unit == "image" else "")
        if not patient and not pattern:
            problems.append(f"image {name}: patient is not stated, and is for others")
        items.append(Item(name, path, said.get(path), patient))
    return items


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def _check(item: Item, classes: Sequence[str], allow_burned_in: bool) -> None:
    """Read the image to its end and look at each box."""
    try:
        if item.path.name.lower().endswith(image_files.SUFFIXES):
            pixels = image_files.read_image(item.path)
            item.shape, item.channels = pixels.shape[:2], 1 if pixels.ndim == 2 else 3
        elif item.path.name.lower().endswith(DICOM):
            picture = read_picture(item.path, allow_burned_in)
            pixels, item.shape, item.spacing = picture.pixels, picture.pixels.shape, picture.spacing
            if picture.patient and item.patient == item.name:
                item.patient, item.by_header = picture.patient, True
        else:
            scan, _ = VolumeFile(item.path).read()
            pixels, item.shape, item.spacing = scan.array, scan.shape, scan.spacing
    except InputError as error:
        item.problems += error.problems
        return
    if not np.isfinite(pixels).all() or pixels.min() == pixels.max():
        item.problems.append("it is empty, or holds values that are not finite")
    if item.said is None:
        return
    stated, dims = item.said.size, len(item.shape)
    if stated and dims == 2 and stated != item.shape[::-1]:
        item.problems.append(f"its boxes were drawn on {stated[0]} x {stated[1]} pixels, it has {item.shape[::-1]}")
    if unknown := sorted({name for name, _ in item.said.boxes if name not in classes}):
        item.problems.append(f"classes {', '.join(unknown)}; allowed: {', '.join(classes)}")
        return
    if any(len(corners) != 2 * dims for _, corners in item.said.boxes):
        item.problems.append(f"a box has not {2 * dims} corners")
        return
    values = np.array([corners for _, corners in item.said.boxes], np.float32).reshape(-1, 2 * dims)
    item.boxes = Boxes(values, np.array([classes.index(name) for name, _ in item.said.boxes], np.int64))
    item.problems += box_problems(item.boxes, item.shape, len(classes))


def _place(
    items: Sequence[Item],
    shares: tuple[float, ...] | None,
    labelled: Labelled,
    seed: int,
    annotated: bool,
    problems: list[str],
) -> dict[str, Any]:
    """Give every item a split and labelled yes or no. Returns what was decided, in words."""
    complete: dict[str, bool] = {}
    for item in items:
        complete[item.patient] = complete.get(item.patient, True) and item.said is not None
    given = any(item.said and item.said.split for item in items)
    try:
        if given and shares:
            raise InputError("the boxes' file has a column split, so --split would have no effect; leave one out")
        if given:
            splits = {item.name: item.said.split if item.said else "train" for item in items}
        elif not annotated:
            splits = {item.name: "train" for item in items}
        else:
            raise_all(share_problems(shares or SHARES))
            wanted = labelled if isinstance(labelled, int) else 0
            drawn = split_patients(complete, shares or SHARES, wanted, seed)
            splits = {item.name: drawn[item.patient] for item in items}
        for item in items:
            item.split = splits[item.name]
        raise_all(split_problems([(item.name, item.patient, item.split) for item in items]))
        column = any(item.said and item.said.labelled for item in items)
        train = sorted({item.patient for item in items if item.split == "train"})
        able = [patient for patient in train if complete[patient]]
        if labelled == "all":
            chosen = set(able)
        else:
            count = 0 if labelled == "none" else labelled
            chosen = choose_labelled(shuffled(able, seed, "labelled"), count) if count else set()
        for item in items:
            if column:
                word = (item.said.labelled if item.said else "").lower()
                if word not in (*YES, *NO, ""):
                    raise InputError(f"image {item.name}: labelled is {word!r}; allowed: yes, no")
                item.labelled = word in YES
            else:
                item.labelled = item.patient in chosen or item.split != "train"
            if item.said is None and (item.labelled or item.split != "train"):
                problems.append(f"image {item.name} (split {item.split}) is not in the boxes' file, and needs boxes")
    except InputError as error:
        problems += error.problems
    where = "from the boxes' file" if given else {"shares": shares or SHARES, "seed": seed} if annotated else "train"
    return {"split": where, "labelled": "from the boxes' file" if any(
        item.said and item.said.labelled for item in items) else labelled}  # fmt: skip


def _dataset(
    out: Path, items: Sequence[Item], channels: tuple[str, ...], classes: tuple[str, ...], unit: Unit, names: Names
) -> tuple[DetectionDataset, dict[str, Boxes], list[Item]]:
    """The dataset to write, the boxes that must stay hidden, and the items in the order of its cases."""
    pairs = []
    for item in items:
        found = Found(item.name, item.patient, (), None, where=str(item.path))
        name, patient = names.case(found), names.patient(found)
        suffix = ".nii.gz" if len(item.shape) == 3 else ".jpg" if _is_jpeg(item.path) else ".png"
        image = out / "images" / f"{name}{suffix}"
        case = DetectionCase(name, patient, item.split, item.labelled, image, item.spacing, item.shape)
        pairs.append((case, item))
    if names.key:
        pairs.sort(key=lambda pair: pair[0].id)
    boxes = {case.id: item.boxes for case, item in pairs if item.boxes is not None and open_to_training(case)}
    hidden = {case.id: item.boxes for case, item in pairs if item.boxes is not None and not open_to_training(case)}
    cases = tuple(case for case, _ in pairs)
    return DetectionDataset(out, channels, classes, unit, cases, boxes), hidden, [item for _, item in pairs]


def _is_jpeg(path: Path) -> bool:
    return path.suffix.lower() in image_files.JPEG


def _write(
    dataset: DetectionDataset,
    hidden: dict[str, Boxes],
    items: Sequence[Item],
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
    write_one: Callable[[tuple[DetectionCase, Item]], None] = _write_image
    for _ in each("write", write_one, list(zip(dataset.cases, items)), progress):
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


def _write_image(pair: tuple[DetectionCase, Item]) -> None:
    case, item = pair
    if case.dims == 3:
        scan, _ = VolumeFile(item.path).read()
        write_nifti(case.image, scan.array, scan.affine, bool(scan.spacing))
        return
    temporary = case.image.with_name(f".{case.image.name}.partial")
    if item.path.name.lower().endswith(DICOM):
        content = image_files.png_bytes(read_picture(item.path, allow_burned_in=True).pixels)  # decided by the check
    else:
        content = image_files.clean_copy(item.path)
    temporary.write_bytes(content)
    temporary.replace(case.image)
