"""The frames of a segmentation on a grid: on that of an image, or on the smallest grid that holds them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from medkd.errors import InputError, raise_all
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.frames import Frame
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.stack import SAME_PLACE, directions_of
from medkd.imaging.dicom.values import item, items, number
from medkd.imaging.geometry import Grid, flip_lps

OFF_GRID = 0.05
"""The share of a voxel edge by which a pixel may miss the centre of its voxel: rounded headers stay far below."""
MOST_SLICES = 10_000  # more means that a frame lies astray


@dataclass(frozen=True)
class FrameGrid:
    """A grid, and what had to be assumed about it."""

    affine: np.ndarray
    shape: tuple[int, ...]
    notes: tuple[str, ...]


class Place(NamedTuple):
    """inside: the pixels of a frame that lie on the grid, as (rows, columns) to index it with; voxels: three index
    arrays that give their voxels in a (X, Y, Z) array."""

    inside: tuple[np.ndarray, np.ndarray]
    voxels: tuple[np.ndarray, ...]


def place(frame: Frame, grid: Grid) -> Place | str:
    """Where the pixels of a frame lie on a grid, or why they do not, in words."""
    directions = directions_of(frame.orientation or ())
    if directions is None:
        return "its orientation is not two perpendicular axes"
    to_grid = np.linalg.solve(grid.affine, flip_lps(_affine(frame, directions)))
    steps = np.rint(to_grid[:3, :2]).astype(int)
    if not (np.abs(steps).sum(0) == 1).all() or np.abs(steps).sum(1).max() > 1:
        return "its pixels do not lie along the axes of the image, or are of another size"
    origin = np.rint(to_grid[:3, 3]).astype(int)
    corners = np.array([[x, y, 0, 1] for x in (0, frame.columns - 1) for y in (0, frame.rows - 1)])
    exact = np.column_stack([steps, [0, 0, 0], origin])
    if (miss := float(np.abs(corners @ (to_grid[:3] - exact).T).max())) > OFF_GRID:
        return f"its pixels miss the voxels of the image by {miss:.2g} of a voxel"
    along_row, down_column = (int(np.argmax(np.abs(steps[:, axis]))) for axis in (0, 1))
    normal = 3 - along_row - down_column
    columns = origin[along_row] + steps[along_row, 0] * np.arange(frame.columns)
    rows = origin[down_column] + steps[down_column, 1] * np.arange(frame.rows)
    level = 0 <= origin[normal] < grid.shape[normal]
    x = np.flatnonzero((columns >= 0) & (columns < grid.shape[along_row]) & level)
    y = np.flatnonzero((rows >= 0) & (rows < grid.shape[down_column]) & level)
    voxels = [np.array([[0]])] * 3
    voxels[along_row], voxels[down_column] = columns[x][None, :], rows[y][:, None]
    voxels[normal] = np.array([[origin[normal]]])
    return Place((y[:, None], x[None, :]), tuple(voxels))


def frame_grid(series: Series, frames: Sequence[Frame]) -> FrameGrid:
    """The smallest grid that holds all frames, slices between them that no frame shows included.

    Frames need one orientation, size and pixel spacing, and distances that are multiples of the slice distance: what
    the header states, else the smallest that occurs. Raises InputError.
    """
    first = frames[0]
    directions = directions_of(first.orientation or ())
    problems = []
    if directions is None:
        problems.append("its orientation is not two perpendicular axes")
    for name in ("rows", "columns", "spacing", "orientation", "reference"):
        if len({_rounded(getattr(frame, name)) for frame in frames}) > 1:
            problems.append(f"its frames differ in {name}; read it on the grid of its image")
    raise_all(problems)
    assert directions is not None
    positions = np.array([frame.position for frame in frames], np.float64)
    heights = positions @ directions[2]
    low, high = int(heights.argmin()), int(heights.argmax())
    levels = np.sort(heights)
    gaps = np.diff(levels)
    gaps = gaps[gaps > SAME_PLACE]
    step, notes = _step(series, first, gaps)
    places = (heights - heights[low]) / step
    count = int(np.rint(places[high]))
    if count >= MOST_SLICES:
        raise InputError(f"its frames lie up to {levels[-1] - levels[0]:.4g} mm apart, {count} slices; one is astray")
    along = (positions[high] - positions[low]) / count if count else directions[2] * step
    stray = positions - positions[low] - np.rint(places)[:, None] * along
    if (far := float(np.linalg.norm(stray, axis=1).max())) > max(SAME_PLACE, OFF_GRID * step):
        raise InputError(f"its frames lie on no grid of slices {step:.4g} mm apart: one is {far:.2g} mm astray")
    affine = _affine(first, directions)
    affine[:3, 2], affine[:3, 3] = along, positions[low]
    shown = len(np.unique(np.rint(places)))
    if shown <= count:
        notes.append(f"{count + 1 - shown} of {count + 1} slices are not in the file: taken as background")
    return FrameGrid(flip_lps(affine), (first.columns, first.rows, count + 1), tuple(notes))


def _step(series: Series, frame: Frame, gaps: np.ndarray) -> tuple[float, list[str]]:
    """The distance from slice to slice in mm, and a note where the header does not state it."""
    header = series.headers[0]
    groups = [items(header, tags.PER_FRAME_FUNCTIONAL_GROUPS)[frame.index], item(header, tags.SHARED_FUNCTIONAL_GROUPS)]
    measures = [measure for group in groups if (measure := item(group, tags.PIXEL_MEASURES)) is not None]
    stated = next((abs(v) for m in measures if (v := number(m, tags.SPACING_BETWEEN_SLICES))), None)
    if stated:
        return stated, []
    if gaps.size:
        return float(gaps.min()), ["its slice distance is not stated: taken from the nearest two frames"]
    if not frame.gap:
        raise InputError("neither slice distance nor thickness is stated, and it shows one slice only")
    return frame.gap, ["its slice distance is not stated: taken as the slice thickness"]


def _affine(frame: Frame, directions: np.ndarray) -> np.ndarray:
    """(4, 4) from (column, row, 0, 1) to LPS mm; the third axis is the normal, 1 mm."""
    assert frame.spacing
    assert frame.position
    affine = np.eye(4)
    affine[:3, 0] = directions[0] * frame.spacing[1]
    affine[:3, 1] = directions[1] * frame.spacing[0]
    affine[:3, 2] = directions[2]
    affine[:3, 3] = frame.position
    return affine


def _rounded(value: object) -> object:
    return tuple(round(v, 4) + 0.0 for v in value) if isinstance(value, tuple) else value
