"""A dataset folder of single images, as detection and classification have it; what is true of an image is each task's.

dataset.yaml   task, channels, classes, unit (patient or image), licence, provenance
cases.csv      case, patient, split, labelled, image, spacing, shape, and columns of the task
images/        PNG (8 or 16 bits) and JPEG in 2-D, NIfTI in 3-D
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, cast

import yaml

from medkd.data.dataset import inside, name_problems, read_table, split_fingerprint, split_problems, write_whole
from medkd.errors import InputError

COLUMNS = ("case", "patient", "split", "labelled", "image", "spacing", "shape")
Unit = Literal["patient", "image"]


@dataclass(frozen=True)
class ImageCase:
    """One image. shape: (H, W) of a picture, (X, Y, Z) of a volume. spacing: mm along these axes, None if unknown."""

    id: str
    patient: str
    split: str
    labelled: bool
    image: Path
    spacing: tuple[float, ...] | None
    shape: tuple[int, ...]

    @property
    def dims(self) -> int:
        return len(self.shape)

    @property
    def open_to_training(self) -> bool:
        """Whether what is true of it is no secret: it is labelled, or held out for validation or test."""
        return self.labelled or self.split != "train"


@dataclass(frozen=True)
class ImageFolder:
    """What the datasets of both tasks have. unit: what `patient` names; images where nobody knows the patients."""

    root: Path
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    unit: Unit
    cases: tuple[ImageCase, ...]

    task: ClassVar[str]

    def select(self, split: str, labelled: bool | None = None) -> tuple[ImageCase, ...]:
        """The cases of a split, in file order; `labelled` keeps only those with or without a truth that may be used."""
        return tuple(c for c in self.cases if c.split == split and labelled in (None, c.labelled))

    @property
    def fingerprint(self) -> str:
        """Hash of which case is where and whether it is labelled: two runs with one fingerprint used one split."""
        return split_fingerprint(self.cases)


def read_image_folder(
    root: Path, task: str, problems: list[str], columns: Sequence[str] = ()
) -> tuple[ImageFolder, dict[str, dict[str, str]]]:
    """The folder, and the rows of its table by case. columns: those of the task, beside `COLUMNS`.

    What is wrong with cases is added to `problems`. Raises InputError for what is no dataset of the task.
    """
    if not (root / "dataset.yaml").is_file() or not (root / "cases.csv").is_file():
        raise InputError(f"no dataset at {root} (dataset.yaml and cases.csv); make one with medkd prepare")
    try:
        about = yaml.safe_load((root / "dataset.yaml").read_text(encoding="utf-8"))
        found, unit = about["task"], about.get("unit", "patient")
        channels, classes = tuple(about["channels"]), tuple(about["classes"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{root / 'dataset.yaml'} needs task, channels and classes: {error}") from None
    if found != task:
        raise InputError(f"{root} is a dataset for {found}, not for {task}")
    problems += name_problems("channel", channels) + name_problems("class", classes)
    if unit not in ("patient", "image"):
        problems.append(f"unit is {unit!r} in dataset.yaml; allowed: patient, image")
    rows = read_table(root / "cases.csv", (*COLUMNS, *columns))
    cases = tuple(c for row in rows if (c := _case(root, row, problems)))
    problems += split_problems([(c.id, c.patient, c.split) for c in cases])
    problems += [f"case {c.id}: no file {c.image.relative_to(root)}" for c in cases if not c.image.is_file()]
    return ImageFolder(root, channels, classes, cast(Unit, unit), cases), {row["case"]: row for row in rows}


def write_image_folder(
    folder: ImageFolder, about: Mapping[str, Any], columns: Mapping[str, Mapping[str, str]] | None = None
) -> None:
    """Write cases.csv, then dataset.yaml; each whole or not at all. Images must lie there already.

    about: licence, provenance and the like. columns: those of the task, each a value by case id.
    """
    columns = columns or {}
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow((*COLUMNS, *columns))
    for c in folder.cases:
        spacing = "x".join(f"{v:.6g}" for v in c.spacing) if c.spacing else "unknown"
        image = c.image.relative_to(folder.root).as_posix()
        labelled = "yes" if c.labelled else "no"
        own = [column.get(c.id, "") for column in columns.values()]
        writer.writerow([c.id, c.patient, c.split, labelled, image, spacing, "x".join(map(str, c.shape)), *own])
    write_whole(folder.root / "cases.csv", table.getvalue())
    head = {
        "task": folder.task,
        "channels": list(folder.channels),
        "classes": list(folder.classes),
        "unit": folder.unit,
    }
    text = yaml.safe_dump(head | dict(about), sort_keys=False, allow_unicode=True)
    write_whole(folder.root / "dataset.yaml", text)


def _case(root: Path, row: Mapping[str, str], problems: list[str]) -> ImageCase | None:
    """One row, or None and what is wrong with it."""
    wrong = [f"{column} is empty" for column in ("case", "patient", "image") if not row[column]]
    image = inside(root, row["image"])
    if image is None:
        wrong.append(f"image is {row['image']!r}, outside the dataset")
    if row["labelled"] not in ("yes", "no"):
        wrong.append(f"labelled is {row['labelled']!r}; allowed: yes, no")
    try:
        shape = tuple(int(v) for v in row["shape"].split("x"))
        spacing = None if row["spacing"] == "unknown" else tuple(float(v) for v in row["spacing"].split("x"))
    except ValueError:
        shape, spacing = (), None
    if len(shape) not in (2, 3) or min(shape, default=0) < 1:
        wrong.append(f"shape is {row['shape']!r}; write two or three numbers, 480x640 (rows first) or 64x64x32")
    if spacing is not None and (len(spacing) != len(shape) or not all(0 < v < math.inf for v in spacing)):
        wrong.append(f"spacing is {row['spacing']!r}; write a number in mm for each axis of shape, or unknown")
    problems += [f"case {row['case']}: {w}" for w in wrong]
    if wrong or image is None:
        return None
    return ImageCase(row["case"], row["patient"], row["split"], row["labelled"] == "yes", image, spacing, shape)
