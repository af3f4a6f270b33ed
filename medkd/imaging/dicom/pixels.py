"""The pixels of one DICOM file, whatever its transfer syntax, or a message that names what would decode it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from medkd.errors import InputError
from medkd.imaging.dicom.apart import decode_apart
from medkd.imaging.dicom.decode import STILL, UNSAFE, decode, decoder_of
from medkd.imaging.dicom.header import syntax_of
from medkd.imaging.dicom.layout import Layout, pixel_layout, stored_bits

PLAIN = {ImplicitVRLittleEndian, ExplicitVRLittleEndian}
LARGEST_RATIO = 1000  # pixels to file in bytes; JPEG 2000 of an empty picture reaches it
SMALL = 64 << 20  # bytes that any file may decode to


class Syntax(NamedTuple):
    """A transfer syntax that holds pixels, and the decoder that is used for it here; None if there is none."""

    name: str
    uid: str
    decoder: str | None


def stored_pixels(
    file: Path, header: Dataset, pixels_at: int | None = None, frames: Sequence[int] | None = None
) -> np.ndarray:
    """The stored values of a file: (frames, rows, columns), with a last axis of samples for colour.

    header: from `find_series`. pixels_at: from the series, for the quick way to plain pixels. frames: which ones, in
    which order; all where None. Nothing is applied: no slope, no palette, no inversion. Raises InputError that names
    the file: a syntax that cannot be decoded here (and the package that would help), truncated, damaged.
    """
    try:
        layout = pixel_layout(header)
        size, promised = file.stat().st_size, layout.frame_bytes * layout.frames
        wanted = list(range(layout.frames) if frames is None else frames)
        if promised > max(SMALL, LARGEST_RATIO * size):
            raise InputError(f"its header promises {promised >> 20} MiB of pixels; it is damaged")
        syntax = syntax_of(header)
        if syntax in PLAIN and layout.samples == 1 and layout.allocated in (8, 16, 32) and pixels_at:
            return _plain(file, layout, pixels_at, syntax == ImplicitVRLittleEndian, wanted)
        return (decode_apart if syntax in UNSAFE else decode)(file, layout, wanted)
    except InputError as error:
        raise InputError(f"{file.name}: {error}") from None
    except (OSError, MemoryError) as error:
        raise InputError(f"{file.name}: its pixels cannot be read ({error or 'out of memory'})") from None


def decodable() -> list[Syntax]:
    """The transfer syntaxes of still images, for `medkd doctor`; films (MPEG, ...) are never decoded."""
    return [Syntax(uid.name, str(uid), decoder_of(uid)) for uid in STILL]


def _plain(file: Path, layout: Layout, at: int, implicit: bool, frames: Sequence[int]) -> np.ndarray:
    """Uncompressed grey values in little-endian order, straight from the file."""
    with file.open("rb") as source:
        source.seek(at)
        head = source.read(8 if implicit else 12)
        length = int.from_bytes(head[-4:], "little")
        if head[:4] != b"\xe0\x7f\x10\x00":
            raise InputError("holds float pixels, which are not supported, or changed while it was read")
        if length == 0xFFFFFFFF or length < layout.frame_bytes * layout.frames:
            raise InputError(
                f"holds {length} bytes of pixels, not the {layout.frame_bytes * layout.frames} of its size"
            )
        out = np.empty((len(frames), layout.rows, layout.columns), layout.dtype.newbyteorder("<"))
        for place, frame in zip(out, frames, strict=True):
            source.seek(at + len(head) + frame * layout.frame_bytes)
            if source.readinto(place.data.cast("B")) != layout.frame_bytes:
                raise InputError("is truncated: it ends within its pixels")
    return stored_bits(out.astype(layout.dtype, copy=False), layout)
