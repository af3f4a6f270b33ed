"""Header values as plain Python, whatever a file holds: a value that is absent or malformed is None or empty."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable
from typing import Any

from pydicom import Dataset
from pydicom.sequence import Sequence

from medkd.imaging.dicom.quiet import quiet

BINARY = {"US": "H", "SS": "h", "UL": "I", "SL": "i", "FL": "f", "FD": "d"}


def text(dataset: Dataset, tag: int) -> str:
    """An ASCII value (UID, code string, number as text) without padding; several are joined by backslashes."""
    value = _stored(dataset, tag)
    if value is None:
        return ""
    if isinstance(value, bytes):
        value = value.decode("ascii", "replace")
    elif isinstance(value, Iterable) and not isinstance(value, str):
        value = "\\".join(str(v) for v in value)
    return str(value).strip(" \0")


def words(dataset: Dataset, tag: int) -> str:
    """Free text (names, descriptions) in the character set of the file."""
    try:
        with quiet:
            return str(dataset[tag].value or "").strip(" \0") if tag in dataset else ""
    except Exception:  # pydicom raises whatever a malformed value makes it raise
        return text(dataset, tag)


def numbers(dataset: Dataset, tag: int, count: int | None = None, vr: str = "DS") -> tuple[float, ...] | None:
    """`count` finite numbers (any number of them where None); None where there are more, fewer or others.

    vr: how the standard stores them: DS and IS as text, else a key of BINARY.
    """
    value = _stored(dataset, tag)
    try:
        if value is None or value == b"":
            return None
        if isinstance(value, bytes) and vr in BINARY:
            order = "<" if getattr(dataset.get_item(tag), "is_little_endian", True) else ">"
            size = struct.calcsize(BINARY[vr])
            found: tuple[float, ...] = struct.unpack(f"{order}{len(value) // size}{BINARY[vr]}", value)
        elif isinstance(value, bytes):
            found = tuple(map(float, value.rstrip(b" \0").split(b"\\")))
        elif isinstance(value, Iterable) and not isinstance(value, str):
            found = tuple(map(float, value))
        else:
            found = (float(value),)
        sane = bool(found) and (count is None or len(found) == count) and all(map(math.isfinite, found))
    except (ValueError, TypeError, OverflowError, struct.error):
        return None
    return found if sane else None


def number(dataset: Dataset, tag: int, vr: str = "DS") -> float | None:
    """One finite number."""
    found = numbers(dataset, tag, 1, vr)
    return found[0] if found else None


def integer(dataset: Dataset, tag: int, vr: str = "US") -> int | None:
    """One whole number."""
    found = number(dataset, tag, vr)
    return int(found) if found is not None and found == int(found) else None


def items(dataset: Dataset | None, tag: int) -> list[Dataset]:
    """The items of a sequence; none where it is absent or malformed."""
    try:
        if dataset is None or tag not in dataset:
            return []
        with quiet:
            value = dataset[tag].value
        return list(value) if isinstance(value, Sequence) else []
    except Exception:  # as in `words`
        return []


def item(dataset: Dataset | None, tag: int) -> Dataset | None:
    """The first item of a sequence."""
    found = items(dataset, tag)
    return found[0] if found else None


def _stored(dataset: Dataset, tag: int) -> Any:
    """The bytes of an element that nobody looked at yet, else its value."""
    try:
        return dataset.get_item(tag).value
    except Exception:  # absent; or a value that was left in the file and is gone
        return None
