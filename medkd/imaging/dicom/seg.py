"""DICOM segmentations: masks on the grid of the image they were drawn on, or on the grid of their own frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.sr.coding import Code

from medkd.errors import InputError, raise_all
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.frames import Frame, frames_of
from medkd.imaging.dicom.pixels import stored_pixels
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.stack import directions_of
from medkd.imaging.dicom.values import integer, item, items, text, words
from medkd.imaging.geometry import Grid, flip_lps
from medkd.imaging.nifti import Header
from medkd.imaging.overlap import chosen, merge

OFF_GRID = 0.05
"""The share of a voxel edge by which a pixel may miss the centre of its voxel: rounded headers stay far below."""
MOST_SLICES = 10_000
"""Of a segmentation's own grid: more means that one of its frames lies far astray."""
ANATOMY = Code("123037004", "SCT", "Anatomical Structure")


@dataclass(frozen=True)
class Segment:
    """What one segment shows: its number in the file, its label, and the codes of its category and its type."""

    number: int
    label: str
    category: Code = ANATOMY
    type: Code = ANATOMY


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segments of one file on one grid: shape (X, Y, Z), affine (4, 4) voxel to RAS mm, spacing in mm.

    kind: BINARY, FRACTIONAL or LABELMAP. source_series: the UID of the image series it refers to, and reference that
    of the frame of reference; empty where not stated. places: per frame the voxels of its pixels, as three arrays that
    index the grid together (rows, columns). notes: what had to be assumed.
    """

    segments: tuple[Segment, ...]
    shape: tuple[int, ...]
    affine: np.ndarray
    spacing: tuple[float, ...] | None
    kind: str
    source_series: str
    reference: str
    notes: tuple[str, ...]
    pixels: np.ndarray = field(repr=False)
    numbers: tuple[int, ...] = field(repr=False)
    places: tuple[tuple[np.ndarray, ...], ...] = field(repr=False)
    full: int = 1

    def fraction(self, number: int) -> np.ndarray:
        """(X, Y, Z) float32 in [0, 1]: the probability or the occupancy that the file states of a segment."""
        chosen([number], (s.number for s in self.segments), "segment")
        out = np.zeros(self.shape, np.float32)
        for pixels, shown, place in zip(self.pixels, self.numbers, self.places):
            if self.kind == "LABELMAP":
                out[place] = pixels == number
            elif shown == number:
                out[place] = pixels / np.float32(self.full)
        return out

    def mask(self, number: int) -> np.ndarray:
        """(X, Y, Z) bool: the voxels of a segment; of a fractional one those with a fraction of 0.5 or more."""
        return self.fraction(number) >= 0.5

    def merged(self, order: Sequence[int] | None = None) -> np.ndarray:
        """(X, Y, Z) of an unsigned type: the segment number of each voxel, 0 where there is none.

        order: which segments, painted in this order, the last on top. Without it all are taken, and segments that
        share voxels are refused.
        """
        known = {segment.number: segment.label for segment in self.segments}
        numbers = list(known) if order is None else chosen(order, known, "segment")
        regions = ((number, known[number], self.mask(number)) for number in numbers)
        return merge(regions, self.shape, ordered=order is not None)


def read_segmentation(file: Path, like: Grid | None = None) -> Segmentation:
    """Read a DICOM SEG file (binary, fractional or label map; any number and order of frames).

    like: the grid of the image, with any order of axes; every pixel must lie on the centre of one of its voxels.
    Voxels that no frame covers are background. Without it the grid is that of the frames: X along their rows, Y down
    their columns, Z from the lowest to the highest, slices that no frame shows included. Raises InputError that names
    the file and lists the frames that are at fault.
    """
    try:
        series, number = _series(Path(file))
        return _read(series, number, like)
    except InputError as error:
        raise InputError([f"{Path(file).name}: {problem}" for problem in error.problems]) from None


def _series(file: Path) -> tuple[Series, int]:
    found = find_series(file)
    raise_all([refused.reason for refused in found.refused])
    if not found.series or found.series[0].kind != "segmentation":
        raise InputError("is not a DICOM segmentation")
    return found.series[0], 0


def _read(series: Series, number: int, like: Grid | None) -> Segmentation:
    header, file = series.headers[number], series.files[number]
    kind = text(header, tags.SEGMENTATION_TYPE) or "LABELMAP"
    frames, problems = frames_of(series)
    raise_all(problems)
    groups = [items(header, tags.PER_FRAME_FUNCTIONAL_GROUPS)[frame.index] for frame in frames]
    shared = item(header, tags.SHARED_FUNCTIONAL_GROUPS)
    shown = tuple(0 if kind == "LABELMAP" else _segment_of(group, shared) for group in groups)
    segments = tuple(_segments(header))
    full = integer(header, tags.MAXIMUM_FRACTIONAL_VALUE) if kind == "FRACTIONAL" else 1
    _check(segments, shown, kind, full, frames)
    notes: list[str] = []
    grid = _own_grid(frames, notes) if like is None else like
    places = [_place(frame, grid) for frame in frames]
    raise_all(sorted({place for place in places if isinstance(place, str)}))
    pixels = stored_pixels(file, header, series.pixels_at[number])
    inside = [_inside(place, grid.shape) for place in places if not isinstance(place, str)]
    _check_pixels(pixels, inside, frames, shown, places, kind, segments)
    sizes = np.linalg.norm(grid.affine[:3, :3], axis=0)
    cut = [np.ix_(rows, columns) for rows, columns in inside]
    return Segmentation(
        segments, tuple(grid.shape), grid.affine, tuple(float(v) for v in sizes), kind,
        text(item(header, tags.REFERENCED_SERIES) or Dataset(), tags.SERIES_INSTANCE_UID),
        text(header, tags.FRAME_OF_REFERENCE_UID), tuple(notes), pixels, shown, (), full or 1,
    )  # fmt: skip
