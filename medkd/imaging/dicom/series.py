"""A DICOM series: the files that share a series UID, with their headers and what can be told without pixels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pydicom import Dataset

from medkd.imaging.dicom import tags
from medkd.imaging.dicom.header import Header, syntax_of
from medkd.imaging.dicom.values import integer, text, words

Kind = Literal["image", "segmentation", "structures", "other"]
STORAGE = "1.2.840.10008.5.1.4.1.1."
KINDS: dict[str, Kind] = {
    f"{STORAGE}66.4": "segmentation",
    f"{STORAGE}66.7": "segmentation",
    f"{STORAGE}481.2": "other",  # RT dose: a grid, but not an image
    f"{STORAGE}481.3": "structures",
}
CAPTURES = ("7", "7.1", "7.2", "7.3", "7.4")  # secondary capture: pictures of screens and scanned films
ULTRASOUND = ("3", "3.1", "6", "6.1", "6.2")


@dataclass(frozen=True, eq=False)
class Series:
    """One series. `files` and `headers` run in parallel, sorted by instance number, then by path.

    patient: the patient id, or the name where there is none, as stored: an identifier, for grouping and splitting
    only, never to be written. number: the series number, or None. headers: pydicom Datasets with file_meta, without
    pixels and private elements; large values are read from the file when asked for. syntaxes: the names of the
    transfer syntaxes that occur. burned_in: why text may be burned into the pixels, in words; empty if no header says
    so. Files of a zip lie in a temporary folder whose name changes from run to run: name a case by its UIDs.
    pixels_at: the byte of each file at which its pixel element starts, or None.
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
    pixels_at: tuple[int | None, ...] = field(repr=False, default=())


def group(files: Iterable[tuple[Path, Header]]) -> tuple[Series, ...]:
    """Files by patient, study, series and kind, sorted by study, series number and UID. Files of two patients never
    come together, whatever their UIDs say."""
    groups: dict[tuple, list[tuple[Path, Header]]] = defaultdict(list)
    for path, header in files:
        found = header.dataset
        uids = [text(found, tag) for tag in (tags.PATIENT_ID, tags.STUDY_INSTANCE_UID, tags.SERIES_INSTANCE_UID)]
        groups[(*uids, kind_of(header))].append((path, header))
    series = [_series(key, members) for key, members in groups.items()]
    return tuple(sorted(series, key=lambda s: (s.study_uid, s.number is None, s.number or 0, s.uid, s.kind)))


def kind_of(header: Header) -> Kind:
    """What a file holds; images are files with rows, columns and a pixel element."""
    if (known := KINDS.get(text(header.dataset, tags.SOP_CLASS_UID))) is not None:
        return known
    pixels = (
        header.pixels_at is not None and integer(header.dataset, tags.ROWS) and integer(header.dataset, tags.COLUMNS)
    )
    return "image" if pixels else "other"


def _series(key: tuple, members: list[tuple[Path, Header]]) -> Series:
    def place(member: tuple[Path, Header]) -> tuple:
        instance = integer(member[1].dataset, tags.INSTANCE_NUMBER, "IS")
        return instance is None, instance or 0, str(member[0])

    members = sorted(members, key=place)
    headers = [header.dataset for _, header in members]
    return Series(
        study_uid=key[1],
        uid=key[2],
        patient=key[0] or words(headers[0], tags.PATIENT_NAME),
        modality=text(headers[0], tags.MODALITY),
        description=words(headers[0], tags.SERIES_DESCRIPTION),
        number=integer(headers[0], tags.SERIES_NUMBER, "IS"),
        kind=key[3],
        files=tuple(path for path, _ in members),
        headers=tuple(headers),
        syntaxes=tuple(sorted({syntax_of(header).name or "not stated" for header in headers})),
        burned_in=next((why for header in headers if (why := _burned_in(header))), ""),
        pixels_at=tuple(header.pixels_at for _, header in members),
    )


def _burned_in(header: Dataset) -> str:
    stated = text(header, tags.BURNED_IN_ANNOTATION).upper()
    if stated in ("YES", "NO"):
        return "the header says that annotation is burned in" if stated == "YES" else ""
    kind = text(header, tags.SOP_CLASS_UID).removeprefix(STORAGE)
    if kind in CAPTURES or text(header, tags.CONVERSION_TYPE):
        return "a secondary capture, which often shows text, and the header does not deny it"
    if kind in ULTRASOUND:
        return "an ultrasound image, which often shows text, and the header does not deny it"
    if "SCREEN SAVE" in text(header, tags.IMAGE_TYPE).upper():
        return "a saved screen"
    return ""
