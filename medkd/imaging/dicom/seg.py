"""DICOM segmentations: masks on the grid of the image they were drawn on, or on the grid of their own frames."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.pixels import get_decoder
from pydicom.sr.coding import Code
from pydicom.uid import UncompressedTransferSyntaxes

from medkd.errors import InputError, raise_all
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.frame_grid import FrameGrid, frame_grid, place
from medkd.imaging.dicom.frames import Frame, frames_of
from medkd.imaging.dicom.header import syntax_of
from medkd.imaging.dicom.layout import pixel_layout
from medkd.imaging.dicom.pixels import stored_pixels
from medkd.imaging.dicom.quiet import quiet
from medkd.imaging.dicom.values import integer, item, items, text, words
from medkd.imaging.geometry import Grid, voxel_sizes
from medkd.imaging.overlap import chosen, merge

SEGMENTATION_TYPE = 0x00620001
SEGMENT_SEQUENCE = 0x00620002
SEGMENTED_PROPERTY_CATEGORY = 0x00620003
SEGMENT_NUMBER = 0x00620004
SEGMENT_LABEL = 0x00620005
SEGMENT_IDENTIFICATION = 0x0062000A
REFERENCED_SEGMENT_NUMBER = 0x0062000B
MAXIMUM_FRACTIONAL_VALUE = 0x0062000E
SEGMENTED_PROPERTY_TYPE = 0x0062000F
CODE_VALUE, CODING_SCHEME, CODE_MEANING = 0x00080100, 0x00080102, 0x00080104
REFERENCED_SERIES = 0x00081115

ANATOMY = Code("123037004", "SCT", "Anatomical Structure")
"""What is written, and taken, where nobody says more."""


@dataclass(frozen=True)
class Segment:
    """What one segment shows: its number in the file (from 1), its label, the codes of its category and its type."""

    number: int
    label: str
    category: Code = ANATOMY
    type: Code = ANATOMY


class Placed(NamedTuple):
    """A frame on a grid. segment: the number it shows, 0 where the pixels are numbers themselves. pixels: (H, W).

    voxels: three index arrays that give the (H, W) voxels of a (X, Y, Z) array.
    """

    segment: int
    pixels: np.ndarray
    voxels: tuple[np.ndarray, ...]


@dataclass(frozen=True, eq=False)
class Segmentation:
    """The segments of one file on one grid: shape (X, Y, Z), affine (4, 4) voxel to RAS mm, spacing in mm.

    type: BINARY, FRACTIONAL or LABELMAP. largest: the pixel value of the fraction 1. source_series: the UID of the
    image series that it refers to; reference: of its frame of reference; empty where not stated. notes: what had to be
    assumed.
    """

    segments: tuple[Segment, ...]
    type: str
    largest: int
    shape: tuple[int, ...]
    affine: np.ndarray
    source_series: str
    reference: str
    notes: tuple[str, ...]
    frames: tuple[Placed, ...] = field(repr=False)

    @property
    def spacing(self) -> tuple[float, ...]:
        return tuple(float(size) for size in voxel_sizes(self.affine))

    def fraction(self, number: int) -> np.ndarray:
        """(X, Y, Z) float32 in [0, 1]: the probability or the occupancy that the file states of a segment."""
        chosen([number], (segment.number for segment in self.segments), "segment")
        out = np.zeros(self.shape, np.float32)
        for frame in self.frames:
            if self.type == "LABELMAP":
                out[frame.voxels] = frame.pixels == number
            elif frame.segment == number:
                out[frame.voxels] = frame.pixels / np.float32(self.largest)
        return out

    def mask(self, number: int) -> np.ndarray:
        """(X, Y, Z) bool: the voxels of a segment; of a fractional one those with a fraction of 0.5 or more."""
        out = np.zeros(self.shape, bool)
        for frame in self.frames:
            if self.type == "LABELMAP":
                out[frame.voxels] = frame.pixels == number
            elif frame.segment == number:
                out[frame.voxels] = frame.pixels >= self.largest / 2
        return out

    def merged(self, order: Sequence[int] | None = None) -> np.ndarray:
        """(X, Y, Z) of an unsigned type: the segment number of each voxel, 0 where there is none.

        order: which segments, painted one after the other, the last on top. Without it all are taken, and segments
        that share voxels are refused by an InputError that names them.
        """
        labels = {segment.number: segment.label for segment in self.segments}
        numbers = list(labels) if order is None else chosen(order, labels, "segment")
        regions = ((number, labels[number], self.mask(number)) for number in numbers)
        return merge(regions, self.shape, ordered=order is not None)


def read_segmentation(file: Path, like: Grid | None = None) -> Segmentation:
    """Read a DICOM SEG file: binary, fractional or label map, with any number and order of frames.

    like: the grid of the image, its axes in any order; every pixel must lie on the centre of one of its voxels, and
    voxels that no frame covers are background. Without it the grid is that of the frames: X along their rows, Y down
    their columns, Z along the slice normal, with the slices between that no frame shows. Raises InputError, each line
    of it with the name of the file.
    """
    file = Path(file)
    try:
        return _read(file, like)
    except InputError as error:
        raise InputError(
            [f"{file.name}: {problem.removeprefix(f'{file.name}: ')}" for problem in error.problems]
        ) from None


def _read(file: Path, like: Grid | None) -> Segmentation:
    found = find_series(file)
    raise_all([refused.reason for refused in found.refused])
    if not found.series or found.series[0].kind != "segmentation":
        raise InputError("is not a DICOM segmentation")
    series = found.series[0]
    header = series.headers[0]
    kind = text(header, SEGMENTATION_TYPE)
    frames, problems = frames_of(series)
    if len(items(header, tags.PER_FRAME_FUNCTIONAL_GROUPS)) != len(frames):
        problems.append("it does not describe each of its frames")
    raise_all(problems)
    segments = tuple(_segments(header))
    shown = [0 if kind == "LABELMAP" else _shown(header, frame) for frame in frames]
    largest = integer(header, MAXIMUM_FRACTIONAL_VALUE) if kind == "FRACTIONAL" else 1
    _check(kind, largest, segments, shown, frames)
    grid = frame_grid(series, frames) if like is None else FrameGrid(like.affine, tuple(like.shape), ())
    pixels = _bits(series.files[0]) if _is_packed(header) else stored_pixels(series.files[0], header)
    placed = _placed(frames, shown, pixels, grid)
    _check_contents(placed, kind, largest or 1, segments, frames)
    source = item(header, REFERENCED_SERIES)
    return Segmentation(
        segments, kind, largest or 1, grid.shape, grid.affine,
        text(source, tags.SERIES_INSTANCE_UID) if source is not None else "",
        text(header, tags.FRAME_OF_REFERENCE_UID), grid.notes, tuple(placed),
    )  # fmt: skip


def _is_packed(header: Dataset) -> bool:
    return pixel_layout(header).allocated == 1 and syntax_of(header) in UncompressedTransferSyntaxes


def _bits(file: Path) -> np.ndarray:
    """(n, rows, columns) uint8 of all frames at once: a frame of packed bits may begin within a byte."""
    try:
        with quiet:
            dataset = dcmread(file)
            pixels = get_decoder(syntax_of(dataset)).as_array(dataset, raw=True)[0]
            return pixels.reshape(-1, dataset.Rows, dataset.Columns)
    except Exception as error:  # pydicom raises whatever a broken file makes it raise
        raise InputError(f"its pixels are damaged ({' '.join(str(error).split())[:160]})") from None


def _segments(header: Dataset) -> list[Segment]:
    found = []
    for number, described in enumerate(items(header, SEGMENT_SEQUENCE), 1):
        codes = [_code(item(described, tag)) for tag in (SEGMENTED_PROPERTY_CATEGORY, SEGMENTED_PROPERTY_TYPE)]
        stated = integer(described, SEGMENT_NUMBER)
        found.append(Segment(number if stated is None else stated, words(described, SEGMENT_LABEL), *codes))
    return [segment for segment in found if segment.number]  # 0 is the background of a label map


def _code(coded: Dataset | None) -> Code:
    if coded is None:
        return ANATOMY
    return Code(text(coded, CODE_VALUE), text(coded, CODING_SCHEME), words(coded, CODE_MEANING))


def _shown(header: Dataset, frame: Frame) -> int | None:
    """The segment of a frame."""
    groups = [items(header, tags.PER_FRAME_FUNCTIONAL_GROUPS)[frame.index], item(header, tags.SHARED_FUNCTIONAL_GROUPS)]
    identified = next((i for group in groups if (i := item(group, SEGMENT_IDENTIFICATION)) is not None), None)
    return integer(identified, REFERENCED_SEGMENT_NUMBER) if identified is not None else None


def _check(
    kind: str, largest: int | None, segments: Sequence[Segment], shown: Sequence[int | None], frames: Sequence[Frame]
) -> None:
    """Everything that can be wrong before the pixels are read."""
    problems = []
    numbers = [segment.number for segment in segments]
    if kind not in ("BINARY", "FRACTIONAL", "LABELMAP"):
        problems.append(f"its segmentation type is {kind or 'not stated'}; BINARY, FRACTIONAL or LABELMAP is needed")
    if not largest or largest < 1:
        problems.append("its fractions have no largest value")
    if not segments or len(set(numbers)) < len(numbers):
        problems.append(f"it describes the segments {numbers}; each needs a number of its own")
    unknown = [frame.name for frame, number in zip(frames, shown) if kind != "LABELMAP" and number not in numbers]
    if unknown and not problems:
        problems.append(f"it does not say which of its segments is shown in {_list(unknown)}")
    unplaced = [frame.name for frame in frames if not (frame.position and frame.orientation and frame.spacing)]
    if unplaced:
        problems.append(f"the place in the patient is not stated of {_list(unplaced)} (a slide, or a projection?)")
    raise_all(problems)


def _placed(frames: Sequence[Frame], shown: Sequence[int | None], pixels: np.ndarray, grid: Grid) -> list[Placed]:
    """Every frame on the grid, without the pixels outside of it. Refuses pixels of a segment that would be lost."""
    placed, problems = [], defaultdict(list)
    for frame, number, picture in zip(frames, shown, pixels, strict=True):
        where = place(frame, grid)
        if isinstance(where, str):
            problems[where].append(frame.name)
            continue
        if picture.any() and np.count_nonzero(picture[where.inside]) < np.count_nonzero(picture):
            problems["it marks pixels outside the image"].append(frame.name)
        placed.append(Placed(number or 0, picture[where.inside], where.voxels))
    raise_all([f"{problem}: {_list(names)}" for problem, names in problems.items()])
    return placed


def _check_contents(
    placed: Sequence[Placed], kind: str, largest: int, segments: Sequence[Segment], frames: Sequence[Frame]
) -> None:
    """Two frames of one segment at one place, and pixel values that mean nothing."""
    problems: list[str] = []
    seen: dict[tuple[int, ...], str] = {}
    numbers = [0, *(segment.number for segment in segments)]
    for frame, (number, pixels, voxels) in zip(frames, placed):
        if not pixels.size:
            continue
        key = (number, *(int(axis.ravel()[0]) for axis in voxels))
        if key in seen:
            problems.append(f"{seen[key]} and {frame.name} show one segment at one place")
        seen[key] = frame.name
        if kind == "LABELMAP" and (strange := np.setdiff1d(pixels, numbers)).size:
            problems.append(f"{frame.name} holds the value {strange[0]}, which is none of its segments")
        elif kind != "LABELMAP" and int(pixels.max()) > largest:
            problems.append(f"{frame.name} holds the value {pixels.max()}, above its largest, {largest}")
    raise_all(problems)


def _list(names: Sequence[str], shown: int = 6) -> str:
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")
