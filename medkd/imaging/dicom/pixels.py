"""The pixels of one DICOM file, whatever its transfer syntax, or a message that names what would decode it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset


class Syntax(NamedTuple):
    """A transfer syntax that holds pixels, and the decoder that is used for it here; None if there is none."""

    name: str
    uid: str
    decoder: str | None


def stored_pixels(file: Path, header: Dataset) -> np.ndarray:
    """The stored values of a file: (frames, rows, columns), with a last axis of samples for colour.

    header: from `find_series`. Nothing is applied: no slope, no palette, no inversion. Raises InputError that names the
    file: a syntax that cannot be decoded here (and the package that would help), truncated, damaged.
    """
    raise NotImplementedError


def decodable() -> list[Syntax]:
    """What can be decoded on this machine, for `medkd doctor`."""
    raise NotImplementedError
