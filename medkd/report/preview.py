"""One scan at a glance: three planes at one scale in mm, the mask outlined, letters at the edges."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from medkd.report.colours import grey, grey_limits
from medkd.report.figures import png, sheet
from medkd.report.panels import letters, show
from medkd.report.pictures import class_entries, display_convention
from medkd.report.slices import Plane, best_slice, cut

AXES = (2, 1, 0)  # axial, coronal, sagittal


def three_planes(
    image: np.ndarray,
    mask: np.ndarray | None,
    spacing: tuple[float, float, float],
    names: Sequence[str] = (),
    title: str = "",
    note: str = "",
) -> bytes:
    """An axial, a coronal and a sagittal slice, each where the mask is largest, or through the middle.

    image, mask: (X, Y, Z) on RAS+ axes; mask of whole numbers, 0 is the background. spacing: mm, (1, 1, 1) where
    unknown. names: of the mask's values, [0] is the background; classes are numbered without them. note: below the
    picture, beside the display convention.
    """
    slices = []
    for axis in AXES:
        index = image.shape[axis] // 2 if mask is None else best_slice(mask, axis)
        slices.append(cut("", image, mask, spacing=spacing, axis=axis, index=index))
    width, height = (max(one.size[side] for one in slices) for side in (0, 1))
    labels = [one.truth for one in slices if one.truth is not None]
    shown = sorted({int(value) for label in labels for value in np.unique(label)} - {0})
    codes = {value: code for code, value in enumerate(shown, 1)}
    entries = class_entries(
        [np.arange(len(shown) + 1)], ["background", *(names[v] if v < len(names) else f"class {v}" for v in shown)]
    )
    figure, axes = sheet(
        [min(height / width, 2.0)], [(title, "")], [one.note for one in slices],
        [("mask", entries)] if shown else [], f"{display_convention(_planes())} {note}".strip(), panel=2.6,
    )  # fmt: skip
    limits = grey_limits(image[:: max(1, image.shape[0] // 64)], *[one.image for one in slices])
    for one, ax in zip(slices, axes[0]):
        label = None if one.truth is None else np.vectorize(lambda v: codes.get(int(v), 0), otypes=[int])(one.truth)
        show(ax, grey(one.image, limits), one.size, label)
        left, top = (width - one.size[0]) / 2, (height - one.size[1]) / 2
        ax.set(xlim=(-left, one.size[0] + left), ylim=(one.size[1] + top, -top))
        letters(ax, one.plane, one.size)
    return png(figure)


def _planes() -> set[Plane]:
    return {"axial", "coronal", "sagittal"}
