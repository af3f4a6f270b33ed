"""Which volumes a series holds and on which grid, from the headers alone: every doubt is a problem or a note."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from medkd.imaging.dicom import tags
from medkd.imaging.dicom.frames import Frame, frames_of
from medkd.imaging.dicom.grids import by_grid, grid_words, without_copies
from medkd.imaging.dicom.resample import regular_grid
from medkd.imaging.dicom.rescale import scaling
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.split import Part, split
from medkd.imaging.dicom.stack import directions_of, listed, stack
from medkd.imaging.dicom.values import integer, text
from medkd.imaging.geometry import flip_lps

LARGEST_GROWTH = 8  # of a volume by resampling: more is a stray position, not a tilt


@dataclass(frozen=True, eq=False)
class Volume:
    """One volume of a series, before its pixels are read.

    frames: per slice, in order along the normal, (index into series.files, frame in that file or tile of its mosaic).
    shape (X, Y, Z), affine (4, 4) voxel to RAS mm in float64 and spacing in mm (None where not stated): the grid that
    `read_volume` returns (X along the rows of the picture, Y down its columns, Z along the slice normal); for a volume
    with problems the grid after resampling, or where that is impossible the best guess.
    origins: (Z, 3) where the first voxel of each frame lies, RAS mm. time: its place in a 4-D series, or None.
    name: what tells it from the other volumes of the series ("time 3", "echo 2"); empty if it is the only one.
    problems: why it is refused as it is, one sentence each, slices named. fix: what `allow_resample` would do about
    all of them, in words; empty if nothing would help. notes: what a reader had to assume or convert.
    regular: whether the frames lie on the grid as they are; else shift (Z, 3) says how far along row, column and normal
    each begins from the first, mm.
    """

    series: Series
    frames: tuple[tuple[int, int], ...] = field(repr=False)
    shape: tuple[int, int, int]
    affine: np.ndarray
    spacing: tuple[float, float, float] | None
    origins: np.ndarray = field(repr=False)
    time: int | None = None
    name: str = ""
    problems: tuple[str, ...] = ()
    fix: str = ""
    notes: tuple[str, ...] = ()
    regular: bool = True
    shift: np.ndarray = field(repr=False, default_factory=lambda: np.zeros((0, 3)))

    @property
    def resamplable(self) -> bool:
        """Whether `allow_resample` would turn it into a regular grid. Only of interest where there are problems."""
        return bool(self.fix)


def plan_volumes(series: Series) -> tuple[Volume, ...]:
    """The volumes of an image series, in order of time; () for a series of another kind. Never raises for bad headers.

    A 4-D series is split by position and time, a series with several orientations, echoes, ... by these.
    """
    if series.kind != "image":
        return ()
    frames, unplaced = frames_of(series)
    if not frames:
        header = series.headers[0]
        size = (integer(header, tags.COLUMNS) or 0, integer(header, tags.ROWS) or 0)
        return (_unplaced(series, (*size, integer(header, tags.NUMBER_OF_FRAMES, "IS") or 1), unplaced),)
    frames, copies = without_copies(frames)
    grids = by_grid(frames)
    common = [(problem, "") for problem in unplaced]
    if copies:
        common.append((f"{listed(copies)} occur twice with the same UID", "the first of two equal slices is kept"))
    if len(grids) > 1:
        mixed = [f"{listed([f.name for f in members])} ({grid_words(members[0])})" for members in grids]
        remedy = "the slices of one size, spacing, orientation and frame of reference are a volume of their own"
        common.append((f"the series mixes {len(grids)} grids: {'; '.join(mixed)}", remedy))
    volumes = []
    for number, members in enumerate(grids, 1):
        for part in split(members):
            volume = _plan(series, part, members, common)
            grid = f"grid {number}" if len(grids) > 1 else ""
            volumes.append(replace(volume, name=", ".join(name for name in (grid, part.name) if name)))
    return tuple(volumes)


def _plan(series: Series, part: Part, members: list[Frame], common: list[tuple[str, str]]) -> Volume:
    """The volume of one part of the slices of a grid."""
    frames = part.frames
    first = frames[0]
    problems = [*common, *part.problems, *_pixel_problems(series, frames)]
    directions = directions_of(first.orientation) if first.orientation else None
    needs = {
        "its orientation": first.orientation,
        "the position of every slice": all(frame.position for frame in frames),
        "its pixel spacing": first.spacing,
    }
    if missing := [name for name, value in needs.items() if not value]:
        problems.append((f"its header does not state, or not sanely, {', '.join(missing)}", ""))
    elif directions is None:
        problems.append(("its orientation is not two perpendicular axes", ""))
    shape = (first.columns, first.rows, len(frames))
    if missing or directions is None:
        return _unplaced(series, shape, [problem for problem, _ in problems], frames)
    stacked = stack(frames, directions)
    problems += stacked.problems
    affine = stacked.affine
    if not stacked.regular and all(remedy for _, remedy in problems):
        shape, affine = regular_grid(stacked, first.rows, first.columns)
        if np.prod(shape, dtype=float) > LARGEST_GROWTH * first.columns * first.rows * len(frames):
            problems.append(("its slices lie too far apart sideways for one grid", ""))
            shape, affine = (first.columns, first.rows, len(frames)), stacked.affine
    remedies = list(dict.fromkeys(remedy for _, remedy in problems))
    return Volume(
        series=series,
        frames=tuple((frames[i].file, frames[i].index) for i in stacked.order),
        shape=shape,
        affine=flip_lps(affine),
        spacing=tuple(float(v) for v in np.linalg.norm(affine[:3, :3], axis=0)),  # type: ignore[arg-type]
        origins=flip_lps(stacked.origins),
        time=part.time,
        problems=tuple(problem for problem, _ in problems),
        fix="; ".join(remedies) if remedies and all(remedies) else "",
        notes=(*part.notes, *stacked.notes, *_notes(series, frames, alone=len(frames) == len(members))),
        regular=stacked.regular,
        shift=stacked.shift,
    )


def _unplaced(
    series: Series, shape: tuple[int, int, int], problems: Sequence[str], frames: Sequence[Frame] = ()
) -> Volume:
    """A volume whose place in the patient is not known: refused, with a grid of 1 mm that means nothing."""
    places = tuple((frame.file, frame.index) for frame in frames)
    return Volume(series, places, shape, np.eye(4), None, np.zeros((len(places), 3)), problems=tuple(problems))


def _pixel_problems(series: Series, frames: Sequence[Frame]) -> list[tuple[str, str]]:
    """Colour, and slopes that cannot be applied; one sentence for all slices that share a problem."""
    found: dict[str, list[str]] = defaultdict(list)
    for frame in frames:
        header = series.headers[frame.file]
        kind = text(header, tags.PHOTOMETRIC_INTERPRETATION) or "of unknown colours"
        if kind not in ("MONOCHROME1", "MONOCHROME2") or (integer(header, tags.SAMPLES_PER_PIXEL) or 1) != 1:
            why = f"it is a colour image ({kind}); grey values are needed, and which would be a guess"
            found[why].append(frame.name)
        scale = scaling(header, frame.index)
        if isinstance(scale, str):
            found[scale].append(frame.name)
        if series.pixels_at[frame.file] is None:
            found["holds no pixels"].append(frame.name)
    return [(f"{problem}: {listed(names)}", "") for problem, names in found.items()]


def _notes(series: Series, frames: Sequence[Frame], alone: bool) -> list[str]:
    headers = [series.headers[file] for file in sorted({frame.file for frame in frames})]
    notes = []
    if any(text(header, tags.PHOTOMETRIC_INTERPRETATION) == "MONOCHROME1" for header in headers):
        what = "inverted" if inverts(series.modality) else "kept as they are, being measurements"
        notes.append(f"MONOCHROME1 (low values are shown bright): values are {what}")
    if any(tags.PIXEL_PADDING_VALUE in header for header in headers):
        notes.append("pixels outside the picture hold the padding value, which is kept")
    instances = [frame.instance for frame in frames if frame.instance is not None]
    holes = sorted(set(range(min(instances), max(instances) + 1)) - set(instances)) if instances and alone else []
    if holes and len(frames) == len(set(instances)) and len(holes) < 10 * len(frames):
        notes.append(f"instance numbers that do not occur: {listed([str(hole) for hole in holes])}")
    return notes


def inverts(modality: str) -> bool:
    """Whether MONOCHROME1 pixels are inverted: not where values are measurements (HU, activity)."""
    return modality not in ("CT", "PT", "NM")
