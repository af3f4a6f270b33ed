"""How a header says that pixels are stored."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from medkd.errors import InputError
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.values import integer


class Layout(NamedTuple):
    """The frames of a file and the bits of their pixels."""

    frames: int
    rows: int
    columns: int
    samples: int
    allocated: int
    stored: int
    high: int
    signed: bool

    @property
    def bright(self) -> int:
        """What stored values and their inverse add up to: 2**bits - 1, or -1 where they are signed."""
        return -1 if self.signed else (1 << self.stored) - 1

    @property
    def frame_bytes(self) -> int:
        return (self.rows * self.columns * self.samples * self.allocated + 7) // 8

    @property
    def dtype(self) -> np.dtype:
        """In the byte order of this machine; bits that are packed come as bytes."""
        return np.dtype(f"{'i' if self.signed else 'u'}{max(1, self.allocated // 8)}")


def pixel_layout(header: Dataset) -> Layout:
    """Raises InputError without the name of the file where the header does not state it sanely."""
    values = {
        "rows": integer(header, tags.ROWS),
        "columns": integer(header, tags.COLUMNS),
        "bits allocated": integer(header, tags.BITS_ALLOCATED),
    }
    if missing := [name for name, value in values.items() if not value or value < 0]:
        raise InputError(f"its header does not state {', '.join(missing)}")
    allocated = values["bits allocated"] or 0
    stored = integer(header, tags.BITS_STORED) or allocated
    high = integer(header, tags.HIGH_BIT)
    high = stored - 1 if high is None else high
    samples = integer(header, tags.SAMPLES_PER_PIXEL) or 1
    frames = integer(header, tags.NUMBER_OF_FRAMES, "IS") or 1
    if allocated not in (1, 8, 16, 32) or not stored - 1 <= high < allocated or not 0 < stored <= allocated:
        raise InputError(f"its header states {allocated} bits allocated, {stored} stored, high bit {high}: impossible")
    if samples not in (1, 3, 4) or frames < 1:
        raise InputError(f"its header states {samples} samples a pixel and {frames} frames: impossible")
    signed = bool(integer(header, tags.PIXEL_REPRESENTATION))
    return Layout(frames, values["rows"] or 0, values["columns"] or 0, samples, allocated, stored, high, signed)


def stored_bits(values: np.ndarray, layout: Layout) -> np.ndarray:
    """Only the bits that are stored, sign included: the others may hold overlays or rubbish. Changes its argument."""
    if layout.stored < layout.allocated:
        np.left_shift(values, layout.allocated - 1 - layout.high, out=values)
        np.right_shift(values, layout.allocated - layout.stored, out=values)
    return values
