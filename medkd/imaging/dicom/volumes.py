"""Which volumes a series holds and on which grid, from the headers alone: every doubt is a problem or a note."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from medkd.imaging.dicom.series import Series


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

    @property
    def resamplable(self) -> bool:
        """Whether `allow_resample` would turn it into a regular grid. Only of interest where there are problems."""
        return bool(self.fix)


def plan_volumes(series: Series) -> tuple[Volume, ...]:
    """The volumes of an image series, in order of time; () for a series of another kind. Never raises for bad headers.

    A 4-D series is split by position and time, a series with several orientations, echoes, ... by these.
    """
    raise NotImplementedError
