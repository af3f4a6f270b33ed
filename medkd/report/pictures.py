"""Pictures of scans, labels and predictions, as PNG bytes.

Slices come as (X, Y) on RAS+ axes and are shown as a radiologist sees them: the patient's right on the left of the
picture, anterior up, in physical proportions.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from medkd.errors import InputError

# Okabe and Ito's colours, told apart by colour-blind readers
COLOURS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#F0E442", "#0072B2", "#D55E00")
ALPHA = 0.45


@dataclass(frozen=True)
class Overlay:
    """One slice: image, truth and prediction (X, Y), the edge lengths of a pixel, and a title."""

    title: str
    image: np.ndarray
    truth: np.ndarray
    prediction: np.ndarray
    spacing: tuple[float, float] = (1.0, 1.0)


@dataclass(frozen=True)
class Composite:
    """One example of bidirectional copy-paste: every image and label (X, Y), and the mask (True: host survives)."""

    labelled: tuple[np.ndarray, np.ndarray]
    unlabelled: tuple[np.ndarray, np.ndarray]
    out: tuple[np.ndarray, np.ndarray]
    into: tuple[np.ndarray, np.ndarray]
    mask: np.ndarray


def overlay_grid(rows: Sequence[Overlay], classes: Sequence[str]) -> bytes:
    """One row a slice: the image, with the truth, with the prediction, and where they differ (red)."""
    if not rows:
        raise InputError("no slice to draw; give at least one")
    figure, axes = _axes(len(rows), 4, ("image", "truth", "prediction", "differs"))
    for line, row in zip(axes, rows):
        for panel in line:
            _show(panel, row.image, row.spacing)
        _paint(line[1], row.truth, row.spacing)
        _paint(line[2], row.prediction, row.spacing)
        wrong = np.zeros((*row.image.shape, 4))
        wrong[row.truth != row.prediction] = (*to_rgb("#FF3030"), 0.8)
        line[3].imshow(_turn(wrong), aspect=row.spacing[1] / row.spacing[0], interpolation="nearest")
        line[0].set_ylabel(row.title, fontsize=8)
    _legend(figure, classes)
    return _png(figure)


def composites(examples: Sequence[Composite], classes: Sequence[str]) -> bytes:
    """One row an example: both sources and both composites, each with its labels, the pasted box outlined."""
    if not examples:
        raise InputError("no composite to draw; give at least one")
    titles = (
        "labelled + truth",
        "unlabelled + pseudo-label",
        "out: labelled in unlabelled",
        "in: unlabelled in labelled",
    )
    figure, axes = _axes(len(examples), 4, titles)
    for line, example in zip(axes, examples):
        for panel, (image, label) in zip(line, (example.labelled, example.unlabelled, example.out, example.into)):
            _show(panel, image, (1.0, 1.0))
            _paint(panel, label, (1.0, 1.0))
        for panel in line[2:]:
            _outline(panel, ~example.mask)
    _legend(figure, classes)
    return _png(figure)


def batch_grid(images: np.ndarray, labels: np.ndarray | None, titles: Sequence[str]) -> bytes:
    """A batch (B, X, Y) as the network gets it, labels (B, X, Y) painted on, each with its title."""
    columns = min(6, len(images))
    rows = -(-len(images) // columns)
    figure = Figure(figsize=(1.7 * columns, 1.9 * rows), layout="constrained")
    for number, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, number + 1)
        _bare(axes)
        _show(axes, image, (1.0, 1.0))
        if labels is not None:
            _paint(axes, labels[number], (1.0, 1.0))
        axes.set_title(titles[number], fontsize=6)
    return _png(figure)


def best_slice(label: np.ndarray, axis: int = 2) -> int:
    """The slice along `axis` with the most foreground; the middle one if there is none."""
    counts = (label > 0).sum(tuple(a for a in range(label.ndim) if a != axis))
    return int(counts.argmax()) if counts.any() else label.shape[axis] // 2


def _axes(rows: int, columns: int, titles: Sequence[str]) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(2.1 * columns, 2.1 * rows + 0.6), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for panel in axes.flat:
        _bare(panel)
    for panel, title in zip(axes[0], titles):
        panel.set_title(title, fontsize=9)
    return figure, axes


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)


def _turn(array: np.ndarray) -> np.ndarray:
    """(X, Y, ...) on RAS+ axes to rows from anterior to posterior, columns from the patient's right to the left."""
    return np.swapaxes(array, 0, 1)[::-1]


def _show(axes: Axes, image: np.ndarray, spacing: tuple[float, float]) -> None:
    values = image.astype(np.float64)
    low, high = np.percentile(values, (1, 99))
    axes.imshow(
        _turn(values), cmap="gray", vmin=low, vmax=max(high, low + 1e-9), aspect=spacing[1] / spacing[0],
        interpolation="nearest",
    )  # fmt: skip


def _paint(axes: Axes, label: np.ndarray, spacing: tuple[float, float]) -> None:
    painted = np.zeros((*label.shape, 4))
    for value in np.unique(label[label > 0]):
        painted[label == value] = (*to_rgb(colour(int(value))), ALPHA)
    axes.imshow(_turn(painted), aspect=spacing[1] / spacing[0], interpolation="nearest")


def _outline(axes: Axes, pasted: np.ndarray) -> None:
    turned = _turn(pasted)
    ys, xs = np.nonzero(turned)
    if len(ys):
        size = (xs.max() - xs.min() + 1, ys.max() - ys.min() + 1)
        axes.add_patch(Rectangle((xs.min() - 0.5, ys.min() - 0.5), *size, fill=False, edgecolor="white", linewidth=1))


def colour(value: int) -> str:
    """The colour of a class, by label value."""
    return COLOURS[(value - 1) % len(COLOURS)]


def _legend(figure: Figure, classes: Sequence[str]) -> None:
    patches = [Patch(color=colour(i), alpha=0.8, label=name) for i, name in enumerate(classes) if i > 0]
    figure.legend(handles=patches, loc="outside lower center", ncols=len(patches), fontsize=8, frameon=False)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
