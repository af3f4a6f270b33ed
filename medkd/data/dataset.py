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
from dataclasses import dataclass
from pathlib import Path

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
