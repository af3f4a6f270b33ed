"""The dataset folder: what `medkd prepare` writes and every task reads.

    dataset.yaml   task, channels, classes, spacing unit, licence, provenance
    cases.csv      case, patient, split, labelled, image_<channel>..., label, spacing, shape
    images/ labels/  NIfTI on the scanner's own grid

Paths in cases.csv are relative to the folder. `label` may be present for unlabelled training cases (hidden labels,
for diagnosis only): training reads a label only where `labelled` is yes.
"""

from __future__ import annotations

import csv
import hashlib
import io
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import yaml

from medkd.errors import InputError, raise_all

SPLITS = ("train", "val", "test")
T = TypeVar("T", int, float)


class CaseRow(Protocol):
    """What the cases of every task have."""

    @property
    def id(self) -> str: ...
    @property
    def patient(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def labelled(self) -> bool: ...


class DatasetFolder(Protocol):
    """What the dataset folders of every task have."""

    @property
    def root(self) -> Path: ...
    @property
    def task(self) -> str: ...
    @property
    def channels(self) -> tuple[str, ...]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def fingerprint(self) -> str: ...
    def select(self, split: str, labelled: bool | None = None) -> Sequence[CaseRow]: ...


@dataclass(frozen=True)
class Case:
    """One scan of one patient. `spacing` is in mm along the array axes, or None where the files do not state it."""

    id: str
    patient: str
    split: str
    labelled: bool
    images: tuple[Path, ...]
    label: Path | None
    spacing: tuple[float, ...] | None
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Dataset:
    """A checked dataset folder. `classes[0]` is the background."""

    root: Path
    task: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    cases: tuple[Case, ...]

    def select(self, split: str, labelled: bool | None = None) -> tuple[Case, ...]:
        """The cases of a split, in file order; `labelled` keeps only those with or without usable labels."""
        return tuple(c for c in self.cases if c.split == split and labelled in (None, c.labelled))

    @property
    def fingerprint(self) -> str:
        """Hash of which case is where and whether it is labelled: two runs with one fingerprint used one split."""
        return split_fingerprint(self.cases)


def split_fingerprint(cases: Iterable[CaseRow]) -> str:
    """Hash of which case is where and whether it is labelled."""
    rows = "\n".join(f"{c.id},{c.patient},{c.split},{c.labelled}" for c in cases)
    return hashlib.sha256(rows.encode()).hexdigest()[:16]


def read_dataset(root: Path) -> Dataset:
    """Read and check a dataset folder. Raises InputError with everything that is wrong with it."""
    root = Path(root)
    if not (root / "dataset.yaml").is_file() or not (root / "cases.csv").is_file():
        raise InputError(f"no dataset at {root} (dataset.yaml and cases.csv); make one with medkd prepare")
    try:
        about = yaml.safe_load((root / "dataset.yaml").read_text(encoding="utf-8"))
        task, channels, classes = about["task"], tuple(about["channels"]), tuple(about["classes"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"{root / 'dataset.yaml'} needs task, channels and classes: {error}") from None
    raise_all(name_problems("channel", channels) + name_problems("class", classes))
    rows = read_table(root / "cases.csv", _columns(channels))
    problems: list[str] = []
    cases = tuple(case for row in rows if (case := _case(root, channels, row, problems)))
    problems += split_problems([(c.id, c.patient, c.split) for c in cases])
    for case in cases:
        files = [*case.images, *([case.label] if case.label else [])]
        problems += [f"case {case.id}: no file {f.relative_to(root)}" for f in files if not f.is_file()]
        if case.label is None and (case.labelled or case.split != "train"):
            problems.append(
                f"case {case.id} (split {case.split}) has no label, which only unlabelled training cases may lack"
            )
    raise_all(problems)
    return Dataset(root, task, channels, classes, cases)


def read_table(path: Path, needed: Iterable[str]) -> list[dict[str, str]]:
    """The rows of a CSV file, stripped, empty cells as "". Raises InputError without rows or a needed column."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.DictReader(file)
            columns = list(table.fieldnames or ())
            rows = [{name: (row[name] or "").strip() for name in columns} for row in table]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8: {error}") from None
    if missing := [name for name in needed if name not in columns]:
        raise InputError(f"{path} lacks the columns {', '.join(missing)} (separated by commas)")
    if not rows:
        raise InputError(f"{path} has no rows")
    return rows


def name_problems(kind: str, names: Sequence[str]) -> list[str]:
    """What is wrong with the names of channels or classes: none, empty ones, one used twice."""
    if not names or not all(isinstance(n, str) and n.strip() == n and n for n in names):
        return [f"{kind} names are {list(names)}; at least one is needed, none empty"]
    twice = sorted({n for n in names if names.count(n) > 1})
    return [f"{kind} name {n!r} is given twice; names must differ" for n in twice]


def inside(root: Path, text: str) -> Path | None:
    """The path that a table states relative to `root`, or None if it leaves that folder."""
    path = Path(text)
    return None if path.is_absolute() or ".." in path.parts else root / path


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    temporary = path.with_name(f".{path.name}.partial")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def split_problems(rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """What is wrong with a split given as (case, patient, split): unknown splits, cases twice, leaking patients."""
    problems = []
    splits: dict[str, set[str]] = {}
    seen: set[str] = set()
    for case, patient, split in rows:
        if split not in SPLITS:
            problems.append(f"case {case}: split is {split!r}; allowed: {', '.join(SPLITS)}")
        if case in seen:
            problems.append(f"case {case} is listed twice; keep one row")
        seen.add(case)
        splits.setdefault(patient, set()).add(split)
    for patient, names in splits.items():
        if len(names) > 1:
            problems.append(
                f"patient {patient} is in {' and '.join(sorted(names))}; all scans of a patient go in one split"
            )
    return problems


def write_dataset(dataset: Dataset, about: dict[str, Any]) -> None:
    """Write cases.csv, then dataset.yaml (`about`: licence, provenance and the like); each whole or not at all."""
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(_columns(dataset.channels))
    for c in dataset.cases:
        paths = [p.relative_to(dataset.root).as_posix() if p else "" for p in (*c.images, c.label)]
        spacing = "x".join(f"{v:.6g}" for v in c.spacing) if c.spacing else "unknown"
        labelled = "yes" if c.labelled else "no"
        writer.writerow([c.id, c.patient, c.split, labelled, *paths, spacing, "x".join(map(str, c.shape))])
    write_whole(dataset.root / "cases.csv", table.getvalue())
    head = {
        "task": dataset.task,
        "channels": list(dataset.channels),
        "classes": list(dataset.classes),
        "spacing_unit": "mm" if all(c.spacing for c in dataset.cases) else "unknown",
    }
    write_whole(dataset.root / "dataset.yaml", yaml.safe_dump(head | about, sort_keys=False, allow_unicode=True))


def _columns(channels: Sequence[str]) -> list[str]:
    images = [f"image_{c}" for c in channels]
    return ["case", "patient", "split", "labelled", *images, "label", "spacing", "shape"]


def _case(root: Path, channels: Sequence[str], row: dict[str, str], problems: list[str]) -> Case | None:
    """One row, or None and what is wrong with it."""
    name, wrong = row["case"], []
    stated = {column: row[column] for column in (*(f"image_{c}" for c in channels), "label")}
    paths = {column: inside(root, text) for column, text in stated.items() if text}
    wrong += [f"{column} is {stated[column]!r}, outside the dataset" for column, path in paths.items() if not path]
    wrong += [f"{column} is empty" for column in stated if column != "label" and column not in paths]
    wrong += [f"{column} is empty" for column in ("case", "patient") if not row[column]]
    if row["labelled"] not in ("yes", "no"):
        wrong.append(f"labelled is {row['labelled']!r}; allowed: yes, no")
    spacing = None if row["spacing"] == "unknown" else _numbers(float, row["spacing"])
    if spacing is not None and (len(spacing) != 3 or not all(0 < v < math.inf for v in spacing)):
        wrong.append(f"spacing is {row['spacing']!r}; write three numbers in mm, 1.5x1.5x8, or unknown")
    shape = _numbers(int, row["shape"])
    if len(shape) != 3 or min(shape) < 1:
        wrong.append(f"shape is {row['shape']!r}; write three numbers of voxels, 256x256x10")
    problems += [f"case {name}: {w}" for w in wrong]
    if wrong:
        return None
    images = tuple(path for column, path in paths.items() if path and column != "label")
    return Case(
        name, row["patient"], row["split"], row["labelled"] == "yes", images, paths.get("label"), spacing, shape
    )


def _numbers(kind: type[T], text: str) -> tuple[T, ...]:
    """1.5x1.5x8 as numbers; empty if it is not that."""
    try:
        return tuple(kind(v) for v in text.split("x"))
    except ValueError:
        return ()
