"""The size that a compressed picture says it has: decoders allocate by it, so it must be what the header says."""

from __future__ import annotations

import struct
from typing import NamedTuple


class Picture(NamedTuple):
    """As a JPEG, JPEG-LS or JPEG 2000 codestream states it."""

    rows: int
    columns: int
    samples: int

    def __str__(self) -> str:
        return f"{self.columns} x {self.rows}, {self.samples} sample{'s' * (self.samples != 1)}"


FRAME_HEADERS = {0xC0, 0xC1, 0xC2, 0xC3, 0xF7}  # JPEG baseline, extended, progressive, lossless; JPEG-LS
BARE = {0x01, 0xD8, *range(0xD0, 0xD8)}  # markers without a length


def picture(data: bytes) -> Picture | None:
    """What a codestream says of itself; None if it is none of these, or is broken before it says so."""
    try:
        if data.startswith(b"\xff\x4f\xff\x51"):
            return _jpeg2000(data)
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
    except (struct.error, IndexError):
        pass
    return None


def _jpeg2000(data: bytes) -> Picture:
    width, height, left, top = struct.unpack_from(">4I", data, 8)
    return Picture(height - top, width - left, struct.unpack_from(">H", data, 40)[0])


def _jpeg(data: bytes) -> Picture | None:
    place = 2
    while data[place] == 0xFF:
        marker = data[place + 1]
        if marker == 0xFF:  # padding
            place += 1
        elif marker in BARE:
            place += 2
        elif marker in FRAME_HEADERS:
            rows, columns, samples = struct.unpack_from(">HHB", data, place + 5)
            return Picture(rows, columns, samples)
        else:
            place += 2 + struct.unpack_from(">H", data, place + 2)[0]
    return None
