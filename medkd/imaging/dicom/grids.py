"""Which slices of a series can lie on one grid, and which are there twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from medkd.imaging.dicom.frames import Frame

ONE_DIRECTION = 1e-3
"""How far the components of two unit vectors may differ (0.06 degrees), and by what share two pixel spacings."""


def by_grid(frames: Sequence[Frame]) -> list[list[Frame]]:
    """Slices of one size, spacing, orientation and frame of reference together, in order of first appearance."""
    grids: list[list[Frame]] = []
    for frame in frames:
        grid = next((members for members in grids if _fit(members[0], frame)), None)
        if grid is None:
            grids.append(grid := [])
        grid.append(frame)
    return grids


def _fit(a: Frame, b: Frame) -> bool:
    spacing = max(a.spacing) if a.spacing else 1.0
    return (
        (a.rows, a.columns, a.reference) == (b.rows, b.columns, b.reference)
        and _near(a.orientation, b.orientation, ONE_DIRECTION)
        and _near(a.spacing, b.spacing, ONE_DIRECTION * spacing)
    )


def _near(a: Sequence[float] | None, b: Sequence[float] | None, tolerance: float) -> bool:
    if a is None or b is None:
        return a is b
    return all(abs(x - y) <= tolerance for x, y in zip(a, b, strict=True))


def grid_words(frame: Frame) -> str:
    """The grid of a slice for a message."""
    words = f"{frame.columns} x {frame.rows}"
    if frame.spacing:
        words += f", {frame.spacing[1]:.4g} x {frame.spacing[0]:.4g} mm"
    if frame.orientation:
        words += f", axes {' '.join(f'{v:.2f}' for v in frame.orientation)}"
    return words


def without_copies(frames: Sequence[Frame]) -> tuple[list[Frame], list[str]]:
    """One slice of each UID, and the names of those that came more than once."""
    count = Counter(frame.uid for frame in frames if frame.uid)
    kept: dict[str, Frame] = {}
    for place, frame in enumerate(frames):
        kept.setdefault(frame.uid or f"#{place}", frame)
    return list(kept.values()), [kept[uid].name for uid, times in count.items() if times > 1]
