"""Pictures of detection: boxes on images, a relation matrix over time, the quality of pseudo-labels over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle

from medkd.errors import InputError, raise_all
from medkd.report.colours import class_colour, grey, grey_limits
from medkd.report.curves import COLOURS
from medkd.report.figures import DPI, INK, NORMAL, SMALL, png, sheet, shorten

TALLEST = 1.5  # a panel's height over its width


@dataclass(frozen=True)
class Boxed:
    """An image (H, W) or (H, W, 3) with boxes (N, 4) x0, y0, x1, y1 and labels 0 .. K - 1. scores: (N,) of predicted
    boxes. truth, found: None where there is nothing of the kind, which is not the same as no box."""

    name: str
    image: np.ndarray
    truth: np.ndarray | None = None
    truth_labels: np.ndarray | None = None
    found: np.ndarray | None = None
    labels: np.ndarray | None = None
    scores: np.ndarray | None = None
    note: str = ""


def detection_sheet(images: Sequence[Boxed], classes: Sequence[str], columns: int = 4, panel: float = 2.0) -> bytes:
    """One panel an image: true boxes dashed in white and their class's colour, found ones solid with their scores.

    classes: foreground names by label. Raises InputError without images, and for labels that no class names.
    """
    if not images:
        raise InputError("no image to draw; give detection_sheet at least one")
    for one in images:
        for labels in (one.truth_labels, one.labels):
            if labels is not None and len(labels) and not 0 <= min(labels) <= max(labels) < len(classes):
                raise InputError(f"image {one.name}: labels up to {max(labels)}, but the classes are {list(classes)}")
    columns = min(columns, len(images))
    lines = math.ceil(len(images) / columns)
    tallest = max(one.image.shape[0] / one.image.shape[1] for one in images)
    entries = [
        Patch(facecolor="none", edgecolor=class_colour(k), label=name, linewidth=1.4)
        for k, name in enumerate(classes, 1)
    ]
    caption = "Solid: found, with the score. Dashed: true."
    figure, axes = sheet(
        [min(tallest, TALLEST)] * lines, [(" ", "")] * lines, [""] * columns, [("classes", entries)], caption, panel
    )
    for one, ax in zip(images, (ax for row in axes for ax in row)):
        _draw(ax, one)
        title = f"{one.name}  {one.note}" if one.note else one.name
        ax.set_title(shorten(title, panel, SMALL), size=SMALL, pad=3, parse_math=False)
    return png(figure)


def _draw(ax: Axes, one: Boxed) -> None:
    height, width = one.image.shape[:2]
    shades = one.image if one.image.ndim == 3 else grey(one.image, grey_limits(one.image))
    if shades.dtype == np.uint8:
        shades = shades / 255
    picture = shades if shades.ndim == 3 else np.repeat(shades[..., None], 3, 2)
    ax.imshow(picture.clip(0, 1), extent=(0, width, height, 0), aspect="equal", interpolation_stage="rgba")
    for boxes, labels, style in ((one.truth, one.truth_labels, "dashed"), (one.found, one.labels, "solid")):
        if boxes is None or labels is None:
            continue
        for number, (box, label) in enumerate(zip(boxes, labels)):
            colour = class_colour(int(label) + 1)
            x, y, w, h = box[0], box[1], box[2] - box[0], box[3] - box[1]
            if style == "dashed":
                ax.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor="white", linewidth=1.8))
            ax.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=colour, linestyle=style, linewidth=1.2))
            if style == "solid" and one.scores is not None:
                text = f"{one.scores[number]:.2f}".lstrip("0")
                ax.text(x, y, text, size=4.5, color="black", va="bottom", ha="left", clip_on=True,
                        bbox={"facecolor": colour, "edgecolor": "none", "pad": 0.4})  # fmt: skip
    ax.set(xlim=(0, width), ylim=(height, 0))


def relation_heat_maps(matrices: Mapping[int, np.ndarray], classes: Sequence[str], most: int = 6) -> bytes:
    """A relation matrix (K, K) at several steps, side by side: row is the (pseudo) truth, column the student's answer.

    matrices: step -> matrix; of more than `most` evenly chosen ones are drawn, always the first and the last. Rows
    that were never seen (all 0) stay blank. Raises InputError for other shapes.
    """
    size = len(classes)
    raise_all(
        [f"step {s}: shape {m.shape}, needed {(size, size)}" for s, m in matrices.items() if m.shape != (size,) * 2]
    )
    if not matrices:
        raise InputError("no relation matrix to draw")
    steps = sorted(matrices)
    chosen = [steps[i] for i in sorted({round(v) for v in np.linspace(0, len(steps) - 1, min(most, len(steps)))})]
    figure = Figure(figsize=(1.0 + 1.75 * len(chosen), 2.5), dpi=DPI, facecolor="white", layout="constrained")
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for ax, step in zip(panels, chosen):
        matrix = np.where(matrices[step].sum(1, keepdims=True) > 0, matrices[step], np.nan)
        drawn = ax.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
        ax.set_title(f"step {step}", size=NORMAL, color=INK)
        ax.set_xticks(range(size), [shorten(c, 0.7, SMALL) for c in classes], size=SMALL, rotation=45, ha="right")
        names = [shorten(c, 0.7, SMALL) for c in classes] if ax is panels[0] else [""] * size
        ax.set_yticks(range(size), names, size=SMALL)
        if size <= 6:
            for (i, j), value in np.ndenumerate(matrix):
                if not np.isnan(value):
                    ax.text(j, i, f"{value:.2f}", ha="center", va="center", size=6, color="w" if value < 0.6 else "k")
    panels[0].set_ylabel("pseudo-label", size=SMALL)
    panels[0].set_xlabel("student's answer", size=SMALL)
    figure.colorbar(drawn, ax=list(panels), shrink=0.8).ax.tick_params(labelsize=SMALL)
    return png(figure)


def relation_matrices(rows: Sequence[Mapping[str, Any]], classes: int) -> dict[int, np.ndarray]:
    """Global step -> matrix (K, K), from the rows of a log that hold `context_I_J`."""
    names = [[f"context_{i}_{j}" for j in range(classes)] for i in range(classes)]
    held = [row for row in rows if names[0][0] in row]
    return {int(row["global_step"]): np.array([[row[name] for name in line] for line in names]) for row in held}


def pseudo_label_curves(rows: Sequence[Mapping[str, float]], classes: Sequence[str]) -> bytes:
    """Precision and recall of pseudo-labels over the steps, a line a class; hidden labels are for diagnosis only.

    rows: {"step": s, "precision/CLASS": p, "recall/CLASS": r}, values left out where undefined. Raises InputError
    where no row holds any of them.
    """
    wanted = [f"{what}/{name}" for what in ("precision", "recall") for name in classes]
    if not any(name in row for row in rows for name in wanted):
        raise InputError(f"no precision or recall of {', '.join(classes)} in {len(rows)} rows")
    figure = Figure(figsize=(8.2, 2.8), dpi=DPI, facecolor="white", layout="constrained")
    for ax, what in zip(figure.subplots(1, 2), ("precision", "recall")):
        for number, name in enumerate(classes):
            key = f"{what}/{name}"
            points = [(row["step"], row[key]) for row in rows if key in row and not math.isnan(row[key])]
            ax.plot([s for s, _ in points], [v for _, v in points], color=COLOURS[number % len(COLOURS)], label=name,
                    marker="o", markersize=2.5, linewidth=1.2)  # fmt: skip
        ax.set(ylim=(-0.02, 1.02), title=f"{what} of the pseudo-labels")
        ax.title.set_size(NORMAL)
        ax.set_xlabel("step", size=SMALL)
        ax.tick_params(labelsize=SMALL)
        ax.grid(alpha=0.25)
        legend = ax.legend(fontsize=SMALL, frameon=False)
        for text in legend.get_texts():
            text.set_parse_math(False)
    return png(figure)
