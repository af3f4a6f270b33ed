"""Contours of radiotherapy structure sets (DICOM RTSTRUCT) as masks on the grid of an image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from medkd.errors import InputError, raise_all
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.polygons import fill
from medkd.imaging.dicom.values import integer, item, items, numbers, text, words
from medkd.imaging.geometry import Grid, flip_lps
from medkd.imaging.overlap import chosen, merge

STRUCTURES = 0x30060020
ROI_NUMBER, ROI_NAME = 0x30060022, 0x30060026
CONTOURED, REFERENCED_ROI = 0x30060039, 0x30060084
CONTOURS, CONTOUR_KIND, CONTOUR_DATA = 0x30060040, 0x30060042, 0x30060050
OBSERVATIONS, INTERPRETED_KIND = 0x30060080, 0x300600A4
FRAMES_OF_REFERENCE, STUDIES, SERIES = 0x30060010, 0x30060012, 0x30060014

AREAS = ("CLOSED_PLANAR", "CLOSEDPLANAR_XOR")
OFF_PLANE = 0.1
"""The share of the slice distance by which a contour may miss the plane of its slice, anywhere."""


@dataclass(frozen=True, eq=False)
class Structure:
    """One region of interest: contours (n, 3) RAS mm, each a closed area in one plane. kind: PTV, ORGAN, ... as stated.

    others: why some of what the file holds for it is not among the contours, in words.
    """

    number: int
    name: str
    kind: str
    contours: tuple[np.ndarray, ...] = field(repr=False)
    others: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class StructureSet:
    """The regions of a file. source_series, reference: UIDs of the image series and of the frame of reference that it
    refers to; empty where not stated."""

    structures: tuple[Structure, ...]
    source_series: str
    reference: str

    def merged(self, like: Grid, order: Sequence[int] | None = None) -> np.ndarray:
        """(X, Y, Z) of an unsigned type on a grid: 1 for the first structure that is taken, 2 for the second, ...

        order: the ROI numbers of those that are taken, painted in this order, the last on top. Without it all are
        taken, and structures that share voxels are refused by an InputError that names them.
        """
        known = {structure.number: structure for structure in self.structures}
        taken = list(known) if order is None else chosen(order, known, "structure")
        regions = (
            (value, known[number].name, raster(known[number], like).mask) for value, number in enumerate(taken, 1)
        )
        return merge(regions, tuple(like.shape), ordered=order is not None)


class Raster(NamedTuple):
    """mask: (X, Y, Z) bool. notes: what of the contours is not in it, or doubtful, in words."""

    mask: np.ndarray
    notes: tuple[str, ...]


def read_structures(file: Path) -> StructureSet:
    """Read an RTSTRUCT file. Raises InputError, each line of it with the name of the file."""
    file = Path(file)
    found = find_series(file)
    problems = [refused.reason for refused in found.refused]
    if not problems and (not found.series or found.series[0].kind != "structures"):
        problems = ["is not a DICOM structure set (RTSTRUCT)"]
    raise_all([f"{file.name}: {problem}" for problem in problems])
    header = found.series[0].headers[0]
    kinds = {integer(o, REFERENCED_ROI, "IS"): text(o, INTERPRETED_KIND) for o in items(header, OBSERVATIONS)}
    drawn = {integer(c, REFERENCED_ROI, "IS"): items(c, CONTOURS) for c in items(header, CONTOURED)}
    structures: list[Structure] = []
    for described in items(header, STRUCTURES):
        number = integer(described, ROI_NUMBER, "IS")
        if number is None or number in [structure.number for structure in structures]:
            raise InputError(f"{file.name}: it describes a structure without a number of its own")
        contours, others = _contours(drawn.get(number, []))
        name = words(described, ROI_NAME) or f"structure {number}"
        structures.append(Structure(number, name, kinds.get(number, ""), contours, others))
    frame = item(header, FRAMES_OF_REFERENCE)
    source = item(item(frame, STUDIES), SERIES)
    return StructureSet(
        tuple(structures),
        text(source, tags.SERIES_INSTANCE_UID) if source is not None else "",
        text(frame, tags.FRAME_OF_REFERENCE_UID) if frame is not None else "",
    )


def _contours(described: Sequence[Dataset]) -> tuple[tuple[np.ndarray, ...], tuple[str, ...]]:
    contours, others = [], Counter[str]()
    for contour in described:
        kind = text(contour, CONTOUR_KIND)
        values = numbers(contour, CONTOUR_DATA)
        if kind not in AREAS:
            others[f"of the type {kind or 'not stated'}, which is no area"] += 1
        elif not values or len(values) % 3 or len(values) < 9:
            others["with fewer than 3 points, or damaged"] += 1
        else:
            contours.append(flip_lps(np.array(values).reshape(-1, 3)))
    return tuple(contours), tuple(f"{n} contour{'s' if n > 1 else ''} {what}" for what, n in others.items())


def raster(structure: Structure, like: Grid) -> Raster:
    """A structure on the grid of an image, whose axes may have any order and be oblique.

    The slices are cut by the axis along which every contour is flat. A voxel belongs to the structure if its centre
    lies in an odd number of the contours of its slice (`polygons.fill` says what holds on the edge), so holes may be
    drawn as contours of their own or as keyholes. Raises InputError that names the structure: without areas, contours
    that lie in no slice (more than 0.1 of the slice distance away), or beyond the first or last slice. What lies
    outside sideways is cut off and noted, as are contours of one slice that overlap in part and slices left out.
    """
    if not structure.contours:
        why = f" ({'; '.join(structure.others)})" if structure.others else ""
        raise InputError(f"structure {structure.name!r} has no contour that encloses an area{why}")
    to_grid = np.linalg.inv(like.affine)
    contours = [corners @ to_grid[:3, :3].T + to_grid[:3, 3] for corners in structure.contours]
    axis = int(np.argmin([max(np.ptp(corners[:, a]) for corners in contours) for a in range(3)]))
    levels = np.array([np.rint(corners[:, axis].mean()) for corners in contours]).astype(int)
    misses = np.array([np.abs(corners[:, axis] - level).max() for corners, level in zip(contours, levels)])
    problems = []
    if (off := misses > OFF_PLANE).any():
        problems.append(
            f"structure {structure.name!r}: {off.sum()} of {len(contours)} contours lie in no slice of the image, up to"
            f" {misses.max():.2g} of the slice distance away (first near slice {levels[off][0] + 1})"
        )
    depth = like.shape[axis]
    if (beyond := (levels < 0) | (levels >= depth)).any():
        problems.append(
            f"structure {structure.name!r}: {beyond.sum()} of {len(contours)} contours lie beyond the {depth} slices of"
            f" the image, at slices {levels[beyond].min() + 1} to {levels[beyond].max() + 1}"
        )
    raise_all(problems)
    plane = [a for a in range(3) if a != axis]
    return _raster(structure, [corners[:, plane] for corners in contours], levels, axis, tuple(like.shape))


def _raster(
    structure: Structure, polygons: list[np.ndarray], levels: np.ndarray, axis: int, shape: tuple[int, ...]
) -> Raster:
    mask = np.zeros(shape, bool)
    slices = np.moveaxis(mask, axis, 0)
    size = (slices.shape[1], slices.shape[2])
    cut, crossed = [], []
    for level in np.unique(levels):
        here = [polygon for polygon, at in zip(polygons, levels) if at == level]
        slices[level] = fill(here, size)
        if any((corners < -0.5).any() or (corners > np.array(size) - 0.5).any() for corners in here):
            cut.append(int(level) + 1)
        if len(here) > 1 and _cross([fill([polygon], size) for polygon in here]):
            crossed.append(int(level) + 1)
    notes = list(structure.others)
    if between := sorted(set(range(levels.min(), levels.max())) - set(levels.tolist())):
        notes.append(f"no contour, so no voxel, in {_slices([level + 1 for level in between])} between others")
    if cut:
        notes.append(f"contours reach out of the image and are cut off in {_slices(cut)}")
    if crossed:
        notes.append(f"contours overlap in part, and what they share counts as a hole, in {_slices(crossed)}")
    if not mask.any():
        notes.append("no voxel centre lies inside its contours")
    return Raster(mask, tuple(notes))


def _cross(areas: list[np.ndarray]) -> bool:
    """Whether two areas share pixels and neither holds the other."""
    for i, a in enumerate(areas):
        for b in areas[:i]:
            shared = np.count_nonzero(a & b)
            if shared and shared < min(np.count_nonzero(a), np.count_nonzero(b)):
                return True
    return False


def _slices(numbers: Sequence[int], shown: int = 6) -> str:
    more = f" and {len(numbers) - shown} more" if len(numbers) > shown else ""
    return f"slice {', '.join(map(str, numbers[:shown]))}{more}"
