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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from medkd.errors import InputError, raise_all

SPLITS = ("train", "val", "test")


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
        rows = "\n".join(f"{c.id},{c.patient},{c.split},{c.labelled}" for c in self.cases)
        return hashlib.sha256(rows.encode()).hexdigest()[:16]


def read_dataset(root: Path) -> Dataset:
    """Read and check a dataset folder. Raises InputError with everything that is wrong with it."""
    if not (root / "dataset.yaml").is_file() or not (root / "cases.csv").is_file():
        raise InputError(f"no dataset at {root} (dataset.yaml and cases.csv); make one with medkd prepare")
    try:
        about = yaml.safe_load((root / "dataset.yaml").read_text(encoding="utf-8"))
        task, channels, classes = about["task"], tuple(about["channels"]), tuple(about["classes"])
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise InputError(f"{root / 'dataset.yaml'} needs task, channels and classes: {error}") from None
    with (root / "cases.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    needed = {"case", "patient", "split", "labelled", "label", "spacing", "shape", *(f"image_{c}" for c in channels)}
    if not rows or needed - rows[0].keys():
        missing = ", ".join(sorted(needed - (rows[0].keys() if rows else set())))
        raise InputError(f"{root / 'cases.csv'} has no rows or lacks the columns {missing}")
    cases = tuple(_case(root, channels, row) for row in rows)
    problems = split_problems([(c.id, c.patient, c.split) for c in cases])
    for case in cases:
        files = [*case.images, *([case.label] if case.label else [])]
        problems += [f"case {case.id}: no file {f.relative_to(root)}" for f in files if not f.is_file()]
        if case.label is None and (case.labelled or case.split != "train"):
            problems.append(
                f"case {case.id} (split {case.split}) has no label, which only unlabelled training cases may lack"
            )
    raise_all(problems)
    return Dataset(root, task, channels, classes, cases)


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
    columns = [
        "case",
        "patient",
        "split",
        "labelled",
        *(f"image_{c}" for c in dataset.channels),
        "label",
        "spacing",
        "shape",
    ]
    temporary = dataset.root / ".cases.csv.partial"
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for c in dataset.cases:
            paths = [p.relative_to(dataset.root).as_posix() if p else "" for p in (*c.images, c.label)]
            spacing = "x".join(f"{v:.6g}" for v in c.spacing) if c.spacing else "unknown"
            labelled = "yes" if c.labelled else "no"
            writer.writerow([c.id, c.patient, c.split, labelled, *paths, spacing, "x".join(map(str, c.shape))])
    temporary.replace(dataset.root / "cases.csv")
    known = all(c.spacing for c in dataset.cases)
    head = {
        "task": dataset.task,
        "channels": list(dataset.channels),
        "classes": list(dataset.classes),
        "spacing_unit": "mm" if known else "unknown",
    }
    temporary = dataset.root / ".dataset.yaml.partial"
    temporary.write_text(yaml.safe_dump(head | about, sort_keys=False), encoding="utf-8")
    temporary.replace(dataset.root / "dataset.yaml")


def _case(root: Path, channels: tuple[str, ...], row: dict[str, str]) -> Case:
    spacing = None if row["spacing"] == "unknown" else tuple(float(v) for v in row["spacing"].split("x"))
    return Case(
        row["case"],
        row["patient"],
        row["split"],
        row["labelled"] == "yes",
        tuple(root / row[f"image_{channel}"] for channel in channels),
        root / row["label"] if row["label"] else None,
        spacing,
        tuple(int(v) for v in row["shape"].split("x")),
    )
