"""Siemens mosaics: the slices of a volume as tiles of one picture, placed with the help of its private header."""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from medkd.imaging.dicom import tags
from medkd.imaging.dicom.quiet import quiet
from medkd.imaging.dicom.values import integer, number, numbers, text

CREATOR, IMAGES_IN_MOSAIC = "SIEMENS MR HEADER", 0x0019000A
CSA_CREATOR, CSA_IMAGE_HEADER = "SIEMENS CSA HEADER", 0x00290010
MOST_FIELDS = 1024  # of a CSA header; real ones hold about 100


class Layout(NamedTuple):
    """Tiles of rows x columns pixels in a grid of `side` x `side`; positions (N, 3): of their first pixels, LPS mm.

    gap: between slices, mm."""

    side: int
    rows: int
    columns: int
    positions: np.ndarray
    gap: float


def is_mosaic(header: Dataset) -> bool:
    """Whether the image type says so."""
    return "MOSAIC" in text(header, tags.IMAGE_TYPE).split("\\")


def layout(header: Dataset) -> Layout | str:
    """How the tiles lie, or why that cannot be told, in words.

    The position of the header is that of the whole picture as if it were one large slice: the centre of the picture
    is the centre of each slice in its plane. Tile 0 lies there, each next one a gap further along the slice normal of
    the private header, which says in which of the two directions the slices run.
    """
    csa = _csa_fields(_private(header, CSA_CREATOR, CSA_IMAGE_HEADER))
    stated = _first(csa, "NumberOfImagesInMosaic", 1)
    count = int(stated[0]) if stated else _count(header)
    normal = _first(csa, "SliceNormalVector", 3)
    position = numbers(header, tags.IMAGE_POSITION_PATIENT, 3)
    orientation = numbers(header, tags.IMAGE_ORIENTATION_PATIENT, 6)
    spacing = numbers(header, tags.PIXEL_SPACING, 2)
    gap = number(header, tags.SPACING_BETWEEN_SLICES)
    rows, columns = integer(header, tags.ROWS) or 0, integer(header, tags.COLUMNS) or 0
    needs: dict[str, object] = {"the number of its slices": count, "its slice normal": normal, "its position": position}
    needs |= {"its orientation": orientation, "its pixel spacing": spacing, "the spacing between its slices": gap}
    if missing := [name for name, value in needs.items() if not value]:
        return f"a Siemens mosaic whose header does not state {', '.join(missing)}"
    assert count
    assert normal
    assert position
    assert orientation
    assert spacing
    assert gap
    side = math.isqrt(count - 1) + 1
    if not 0 < count <= rows * columns or rows % side or columns % side:
        return f"a Siemens mosaic of {count} slices in a picture of {columns} x {rows}: they do not fit"
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    step = np.cross(row, column)
    if abs(abs(float(step @ np.array(normal))) - 1) > 1e-3:
        return "a Siemens mosaic whose slice normal disagrees with its orientation"
    step *= abs(gap) * np.sign(step @ np.array(normal))
    corner = np.array(position) + row * spacing[1] * (columns - columns // side) / 2
    corner = corner + column * spacing[0] * (rows - rows // side) / 2
    return Layout(side, rows // side, columns // side, corner + np.arange(count)[:, None] * step, abs(gap))


def cut(picture: np.ndarray, side: int) -> np.ndarray:
    """A picture (rows, columns) as its tiles (side * side, rows / side, columns / side), row by row."""
    rows, columns = picture.shape[0] // side, picture.shape[1] // side
    return picture.reshape(side, rows, side, columns).swapaxes(1, 2).reshape(side * side, rows, columns)


def _private(header: Dataset, creator: str, tag: int) -> bytes:
    """A private element of a Siemens block, wherever the block lies; empty if it is absent."""
    try:
        with quiet:
            value = header.private_block(tag >> 16, creator)[tag & 0xFF].value
    except Exception:  # KeyError where absent; a damaged value raises anything
        return b""
    return value if isinstance(value, bytes) else str(value).encode()


def _count(header: Dataset) -> int:
    """The number of slices from its public-style private element."""
    value = _private(header, CREATOR, IMAGES_IN_MOSAIC)
    if value.isdigit():
        return int(value)
    return int.from_bytes(value, "little") if len(value) == 2 else 0


def _first(csa: dict[str, list[str]], name: str, count: int) -> tuple[float, ...] | None:
    try:
        found = tuple(float(v) for v in csa.get(name, [])[:count])
    except ValueError:
        return None
    return found if len(found) == count and all(map(math.isfinite, found)) else None


def _csa_fields(data: bytes) -> dict[str, list[str]]:
    """The named text fields of a CSA2 header ("SV10"); those read so far if it is damaged.

    Layout: "SV10", 4 bytes, the number of fields, 77; per field a name of 64 bytes, its multiplicity, VR (4 bytes),
    type, number of items, 77; per item four lengths of which the second counts, then the text, padded to 4 bytes.
    """
    fields: dict[str, list[str]] = {}
    if not data.startswith(b"SV10"):
        return fields
    try:
        place = 16
        for _ in range(min(struct.unpack_from("<I", data, 8)[0], MOST_FIELDS)):
            name, _, _, _, count, _ = struct.unpack_from("<64si4siii", data, place)
            place += 84
            values = []
            for _ in range(count):
                length = struct.unpack_from("<4i", data, place)[1]
                if length < 0:
                    return fields
                place += 16
                value = data[place : place + length].split(b"\0")[0].decode("ascii", "replace").strip()
                values += [value] if value else []
                place += length + -length % 4
            fields[name.split(b"\0")[0].decode("ascii", "replace")] = values
    except struct.error:
        pass
    return fields
