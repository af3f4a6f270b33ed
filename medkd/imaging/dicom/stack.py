"""Slices as a stack: their order along the normal, the grid they lie on, and every way in which they do not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medkd.imaging.dicom.frames import Frame

SAME_PLACE = 0.01
"""mm to which headers are often rounded: slices closer than this, or than a tenth of a pixel, lie at one position."""
UNEVEN = 0.01
"""The share of the slice distance by which a slice may miss its place on an even grid (or the rounding, if larger)."""
TILT = 0.1
"""Degrees by which the stack may lean from the slice normal; such a lean stays in the affine, so nothing is lost."""
WIDEST_GAP = 3.5
"""In slice distances: what `allow_resample` fills by interpolation, two missing slices at most."""
ROUNDED = 1e-4
"""How far the length of an axis of the header may be from 1 for reasons of rounding; beyond, it is scaled to 1."""
PERPENDICULAR = 2e-3
"""The largest cosine between the two axes: what rounding them to three digits gives."""
NAMED = 6  # slices that one message names


@dataclass
class Stack:
    """order: of the frames along the normal. directions (3, 3): row, column and normal of length 1, as rows.

    spacing (3,): along row, column and normal, mm. shift (n, 3): where each slice, in order, begins: along the row and
    the column in mm, and along the normal, from the first. step (3,): from a slice to the next. LPS everywhere.
    same: mm that are no distance. regular: whether affine and spacing place every slice. problems: each with its
    remedy, empty if there is none.
    """

    order: np.ndarray
    origins: np.ndarray
    directions: np.ndarray
    spacing: np.ndarray
    shift: np.ndarray
    step: np.ndarray
    same: float
    regular: bool = True
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def affine(self) -> np.ndarray:
        """(4, 4) voxel to LPS mm of the slices as they lie, exact for an even stack even if it leans."""
        affine = np.eye(4)
        affine[:3, 0] = self.directions[0] * self.spacing[0]
        affine[:3, 1] = self.directions[1] * self.spacing[1]
        affine[:3, 2] = self.step
        affine[:3, 3] = self.origins[0]
        return affine


def directions_of(orientation: Sequence[float]) -> np.ndarray | None:
    """(3, 3) row, column and normal; None if the first two are not perpendicular unit vectors.

    Row and column are as written where that is a rounded unit vector, else scaled to one.
    """
    axes = np.array(orientation).reshape(2, 3)
    lengths = np.linalg.norm(axes, axis=1)
    if np.abs(lengths - 1).max() > 0.01 or abs(axes[0] @ axes[1]) > PERPENDICULAR:
        return None
    if np.abs(lengths - 1).max() > ROUNDED:
        axes = axes / lengths[:, None]
    normal = np.cross(*axes)
    return np.array([*axes, normal / np.linalg.norm(normal)])


def no_distance(frame: Frame) -> float:
    """The distance in mm below which slices like this one lie at one position."""
    return min(SAME_PLACE, 0.1 * min(frame.spacing)) if frame.spacing else SAME_PLACE


def stack(frames: Sequence[Frame], directions: np.ndarray) -> Stack:
    """Stack slices of one size, spacing and orientation; each has a position."""
    positions = np.array([frame.position for frame in frames], np.float64)
    height = positions @ directions[2]
    order = np.argsort(height, kind="stable")
    origins = positions[order]
    shift = (origins - origins[0]) @ directions.T
    rows, columns = frames[0].spacing or (1.0, 1.0)
    n = len(frames)
    step = (origins[-1] - origins[0]) / (n - 1) if n > 1 else directions[2] * (frames[0].gap or 1.0)
    gaps = np.diff(shift[:, 2])
    even = float(step @ directions[2])
    same = no_distance(frames[0])
    result = Stack(order, origins, directions, np.array([columns, rows, even]), shift, step, same)
    names = [frames[i].name for i in order]
    if n == 1:
        result.problems.append(("it is a single slice, not a volume", ""))
    elif shift[-1, 2] < same:
        result.problems.append((f"all {n} slices lie at one position ({listed(names)}): not a volume", ""))
    elif (gaps < same).any():
        pairs = [f"{names[i]} and {names[i + 1]}" for i in np.flatnonzero(gaps < same)]
        result.problems.append((f"several slices lie at one position: {listed(pairs)}", ""))
    else:
        _check_gaps(result, gaps, names)
        _check_lean(result, names)
        _check_stated_gap(result, frames)
    if n > 1 and even < same:
        result.spacing[2] = frames[0].gap or 1.0
        result.step = directions[2] * result.spacing[2]
    return result


def _check_gaps(result: Stack, gaps: np.ndarray, names: list[str]) -> None:
    places, usual = result.shift[:, 2], float(np.median(gaps))
    even = np.linspace(0, places[-1], len(places))
    if np.abs(places - even).max() <= max(UNEVEN * usual, result.same):
        return
    result.regular = False
    odd = np.flatnonzero(np.abs(gaps - usual) > max(UNEVEN * usual, result.same))
    where = [f"{gaps[i]:.4g} mm between {names[i]} and {names[i + 1]}" for i in odd]
    whole = np.round(gaps[odd] / usual)
    if len(odd) and (np.abs(gaps[odd] - whole * usual) <= max(UNEVEN * usual, result.same) * whole).all():
        missing = int((whole - 1).sum())
        usual = float(places[-1] / np.round(gaps / usual).sum())
        what = f"{missing} slice{'s are' if missing > 1 else ' is'} missing (slices lie {usual:.4g} mm apart)"
    else:
        what = f"slices are unevenly spaced ({gaps.min():.4g} to {gaps.max():.4g} mm, usually {usual:.4g} mm)"
    # nobody should invent more of a patient than that
    remedy = f"interpolated linearly to a slice every {usual:.4g} mm" if gaps.max() <= WIDEST_GAP * usual else ""
    result.problems.append((f"{what}: {listed(where)}" if where else what, remedy))
    result.spacing[2] = usual


def _check_lean(result: Stack, names: list[str]) -> None:
    lateral, heights = result.shift[:, :2], result.shift[:, 2]
    lean = lateral[-1] / heights[-1]
    tolerance = np.maximum(result.same, UNEVEN * result.spacing[:2])
    stray = np.abs(lateral - heights[:, None] * lean) > 2 * tolerance
    degrees = float(np.degrees(np.arctan(np.linalg.norm(lean))))
    remedy = "slices are shifted sideways, by linear interpolation, into a grid whose third axis is their normal"
    if stray.any():
        where = [names[i] for i in np.flatnonzero(stray.any(1))]
        result.regular = False
        result.problems.append((f"slices are shifted sideways against each other: {listed(where)}", remedy))
    elif degrees > TILT and np.linalg.norm(lateral[-1]) > 2 * result.same:
        result.regular = False
        result.problems.append((f"the stack leans {degrees:.1f} degrees from the slice normal (gantry tilt)", remedy))


def _check_stated_gap(result: Stack, frames: Sequence[Frame]) -> None:
    """A stated distance is often the thickness or plainly wrong, so positions win; two slices have nothing else."""
    stated = frames[0].gap
    distance = result.spacing[2]
    agrees = stated is not None and abs(stated - distance) <= max(UNEVEN * distance, result.same)
    if len(frames) == 2 and not agrees:
        says = f"the header says {stated:.4g} mm" if stated else "the header does not state it"
        problem = f"two slices alone, {distance:.4g} mm apart, and {says}: whether others are missing cannot be told"
        result.problems.append((problem, "their distance is taken as the slice spacing"))
    elif stated is not None and not agrees:
        result.notes.append(f"slices lie {distance:.4g} mm apart; thickness or spacing in the header: {stated:.4g} mm")


def listed(names: Sequence[str]) -> str:
    """The first few names for a message, and how many more there are."""
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
