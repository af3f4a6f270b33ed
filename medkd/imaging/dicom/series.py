"""A DICOM series: the files that share a series UID, with their headers and what can be told without pixels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydicom import Dataset

Kind = Literal["image", "segmentation", "structures", "other"]


@dataclass(frozen=True, eq=False)
class Series:
    """One series. `files` and `headers` run in parallel, sorted by instance number, then by path.

    patient: the patient id, or the name where there is none, as stored: an identifier, for grouping and splitting
    only, never to be written. number: the series number, or None. headers: pydicom Datasets with file_meta and without
    pixels; large values are read from the file when asked for. syntaxes: the names of the transfer syntaxes that
    occur. burned_in: why text may be burned into the pixels, in words; empty if no header says so. Files of a zip lie
    in a temporary folder whose name changes from run to run: name a case by its UIDs, not by its path.
    """

    study_uid: str
    uid: str
    patient: str = field(repr=False)
    modality: str
    description: str
    number: int | None
    kind: Kind
    files: tuple[Path, ...] = field(repr=False)
    headers: tuple[Dataset, ...] = field(repr=False)
    syntaxes: tuple[str, ...]
    burned_in: str
