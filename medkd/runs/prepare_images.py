"""What preparing single images has in common for every task: finding them, reading them, splits, names, writing.

Everything is checked before anything is written, and every problem comes in one list.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from medkd.data import image_files
from medkd.data.dataset import split_problems
from medkd.data.image_cases import ImageCase, Unit
from medkd.data.scan_files import VolumeFile
from medkd.data.splits import choose_labelled, share_problems, shuffled, split_patients
from medkd.errors import InputError, raise_all
from medkd.imaging import nifti
from medkd.imaging.dicom.picture import read_picture
from medkd.imaging.nifti import write_nifti
from medkd.runs.prepare_names import Names
from medkd.runs.prepare_source import NO, SHARES, YES, Found

DICOM = (".dcm", ".dicom")
SUFFIXES = (*image_files.SUFFIXES, *DICOM, *nifti.SUFFIXES)
Labelled = int | Literal["all", "none"]


class Said(Protocol):
    """What the source says of one image beside what is in it; "" where it does not say.

    annotated: whether somebody looked at it, so that its truth is known.
    """

    split: str
    patient: str
    labelled: str

    @property
    def annotated(self) -> bool: ...


@dataclass
class Item:
    """One image of the source, and what it holds. said: None for one that the source does not list."""

    name: str
    path: Path
    said: Said | None
    patient: str
    split: str = ""
    labelled: bool = False
    shape: tuple[int, ...] = ()
    spacing: tuple[float, ...] | None = None
    channels: int = 1
    by_header: bool = False
    problems: list[str] = field(default_factory=list)

    @property
    def annotated(self) -> bool:
        return self.said is not None and self.said.annotated


def image_folder(source: Path) -> Path:
    """The folder of the images: images/ of the source, or the source itself."""
    if not source.is_dir():
        raise InputError(f"no folder at {source}")
    return source / "images" if (source / "images").is_dir() else source


def image_paths(folder: Path) -> list[Path]:
    """The images at any depth. Raises InputError where there is none."""
    files = sorted(p for p in folder.rglob("*") if p.name.lower().endswith(SUFFIXES) and not p.name.startswith("."))
    if not files:
        raise InputError(f"no image ({', '.join(SUFFIXES)}) in {folder}")
    return files


def find_items(
    folder: Path,
    stated: Mapping[str, Said],
    of: str,
    pattern: str | None,
    unit: Unit,
    listed_only: bool,
    problems: list[str],
) -> list[Item]:
    """The images of a folder with what is said of each, joined by name: path below the folder, file name, or stem.

    of: what states it, for messages.
    """
    files = image_paths(folder)
    by_name: dict[str, set[Path]] = defaultdict(set)
    for path in files:
        for name in (path.relative_to(folder).as_posix(), path.name, stem(path)):
            by_name[name].add(path)
    said: dict[Path, Said] = {}
    for name, one in stated.items():
        found = by_name.get(name) or by_name.get(stem(Path(name))) or set()
        if len(found) == 1 and (path := next(iter(found))) not in said:
            said[path] = one
        else:
            why = "no such image" if not found else "several images, or several entries, of this name"
            problems.append(f"image {name!r} of the {of}: {why} in {folder}")
    if listed_only:
        files = [path for path in files if path in said]
    twice = {name for name, n in Counter(stem(path) for path in files).items() if n > 1}
    items = []
    for path in files:
        name = stem(path)
        if name in twice:
            name = "_".join((*path.relative_to(folder).parent.parts, name))
        match = re.match(pattern, stem(path)) if pattern else None
        patient = said[path].patient if path in said else ""
        if pattern and not patient and (not match or not match.groups() or not match[1]):
            problems.append(f"image {name}: the name does not match the patient pattern {pattern!r} with one group")
        patient = patient or (match[1] if match and match.groups() else "") or (name if unit == "image" else "")
        if not patient and not pattern:
            problems.append(f"image {name}: patient is not stated, and is for others")
        items.append(Item(name, path, said.get(path), patient))
    return items


def stem(path: Path) -> str:
    return path.name.removesuffix(".gz").rsplit(".", 1)[0]


def check_image(item: Item, allow_burned_in: bool) -> None:
    """Read an image to its end, and note its shape, its spacing and what is wrong with it."""
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


def channels_of(items: Sequence[Item], problems: list[str]) -> tuple[str, ...]:
    """The names of the channels that all images have."""
    channels = {item.channels for item in items if item.shape}
    if len(channels) > 1 or len({len(item.shape) for item in items if item.shape}) > 1:
        problems.append("some images are grey and some in colour, or some flat and some volumes; prepare them apart")
    return ("red", "green", "blue") if channels == {3} else ("image",)


def place(
    items: Sequence[Item],
    shares: tuple[float, ...] | None,
    labelled: Labelled,
    seed: int,
    of: str,
    problems: list[str],
) -> dict[str, Any]:
    """Give every item a split and labelled yes or no. Returns what was decided, in words. of: what states it.

    Where nothing is annotated every image is for training.
    """
    complete: dict[str, bool] = {}
    for item in items:
        complete[item.patient] = complete.get(item.patient, True) and item.annotated
    given = any(item.said and item.said.split for item in items)
    annotated = any(item.said for item in items)
    try:
        if given and shares:
            raise InputError(f"the {of} has a column split, so --split would have no effect; leave one out")
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
            if not item.annotated and (item.labelled or item.split != "train"):
                problems.append(f"image {item.name} (split {item.split}) has no entry in the {of}, and needs one")
    except InputError as error:
        problems += error.problems
    where = f"from the {of}" if given else {"shares": shares or SHARES, "seed": seed} if annotated else "train"
    stated = any(item.said and item.said.labelled for item in items)
    return {"split": where, "labelled": f"from the {of}" if stated else labelled}


def named_cases(out: Path, items: Sequence[Item], names: Names) -> list[tuple[ImageCase, Item]]:
    """The cases of the dataset `out`, each with its item; private names bring an order of their own."""
    pairs = []
    for item in items:
        found = Found(item.name, item.patient, (), None, where=str(item.path))
        name, patient = names.case(found), names.patient(found)
        suffix = ".nii.gz" if len(item.shape) == 3 else ".jpg" if _is_jpeg(item.path) else ".png"
        image = out / "images" / f"{name}{suffix}"
        case = ImageCase(name, patient, item.split, item.labelled, image, item.spacing, item.shape)
        pairs.append((case, item))
    return sorted(pairs, key=lambda pair: pair[0].id) if names.key else pairs


def _is_jpeg(path: Path) -> bool:
    return path.suffix.lower() in image_files.JPEG


def write_image(pair: tuple[ImageCase, Item]) -> None:
    """Pictures keep their pixels to the last bit and lose EXIF, comments and other text; volumes keep their grid."""
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
