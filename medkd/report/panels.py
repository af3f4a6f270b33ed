"""Drawing into one panel of a picture: an image with its label, a disagreement, the border of a region."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patheffects import withStroke

from medkd.report.colours import class_colour, class_line, disagreement, disagreement_colour, tint
from medkd.report.figures import FAINT, NORMAL, SMALL
from medkd.report.slices import Plane, Slice, radiological

EDGES: dict[Plane, str] = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}
"""Left, right, upper and lower edge of `radiological` pictures."""


def show(
    ax: Axes, shades: np.ndarray, size: tuple[float, float], label: np.ndarray | None = None, absent: str = ""
) -> None:
    """Draw an image of `size` mm with its label: a light fill and a contour a class."""
    if label is None and absent:
        ax.text(0.5, 0.5, absent, transform=ax.transAxes, ha="center", va="center", size=SMALL, color=FAINT)
        return
    codes = np.zeros(shades.shape, dtype=int) if label is None else label.astype(int)
    _place(ax, tint(shades, codes, class_colour, 0.3), size)
    for index in np.unique(codes[codes > 0]):
        outline(ax, codes == index, size, class_colour(int(index)), class_line(int(index)), 1.2)


def show_disagreement(ax: Axes, shades: np.ndarray, row: Slice) -> None:
    if row.truth is None or row.prediction is None:
        show(ax, shades, row.size, absent="nothing to compare")
        return
    codes = disagreement(row.truth.astype(int), row.prediction.astype(int))
    _place(ax, tint(0.6 * shades, codes, disagreement_colour, 0.85), row.size)


def letters(ax: Axes, plane: Plane, size: tuple[float, float]) -> None:
    """What lies at the left, right, upper and lower edge of a picture of `size` mm: R, L, A, P, S or I."""
    style: dict[str, Any] = {"size": NORMAL, "weight": "bold", "color": "white"}
    edges = [
        (0.0, 0.5, "left", "center"),
        (1.0, 0.5, "right", "center"),
        (0.5, 0.0, "center", "top"),
        (0.5, 1.0, "center", "bottom"),
    ]
    for letter, (x, y, across, along) in zip(EDGES[plane], edges):
        text = ax.text(x * size[0], y * size[1], f" {letter} ", ha=across, va=along, **style)
        text.set_path_effects([withStroke(linewidth=2, foreground="black")])


def _place(ax: Axes, picture: np.ndarray, size: tuple[float, float]) -> None:
    ax.imshow(radiological(picture), extent=(0, size[0], size[1], 0), aspect="equal", interpolation_stage="rgba")


def outline(ax: Axes, region: np.ndarray, size: tuple[float, float], colour: str, style: str, width: float) -> None:
    """The border of a region, halfway between the centres of its pixels and their neighbours'."""
    if not region.any():
        return
    inside = np.pad(radiological(region), 1)  # closes the line where the region meets the border of the image
    rows, columns = inside.shape
    x = (np.arange(columns) - 0.5) * size[0] / (columns - 2)
    y = (np.arange(rows) - 0.5) * size[1] / (rows - 2)
    ax.contour(x, y, inside.astype(float), levels=[0.5], colors=[colour], linestyles=[style], linewidths=[width])
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
