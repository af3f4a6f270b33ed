"""Pictures of classification: a confusion matrix, a reliability diagram, a sheet of images with their classes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from medkd.errors import InputError
from medkd.report.colours import grey, grey_limits
from medkd.report.curves import COLOURS
from medkd.report.figures import DPI, FAINT, INK, NORMAL, SMALL, png, sheet, shorten


def confusion_matrix(counts: np.ndarray, classes: Sequence[str]) -> bytes:
    """counts (K, K): cases by true class (rows) and predicted class; shaded by the share of the row."""
    k = len(classes)
    if counts.shape != (k, k):
        raise InputError(f"the confusion has the shape {counts.shape}; {k} classes need ({k}, {k})")
    side = max(2.2, 0.42 * k)
    figure = _figure(side + 1.1, side + 0.9)
    ax = figure.subplots()
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    ax.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row in range(k):
        for column in range(k):
            if counts[row, column]:
                colour = "white" if shares[row, column] > 0.6 else INK
                ax.text(column, row, f"{counts[row, column]}", ha="center", va="center", size=SMALL, color=colour)
    names = [shorten(name, 1.2, NORMAL) for name in classes]
    turned: dict[str, Any] = (
        {"rotation": 45, "ha": "right", "rotation_mode": "anchor"} if max(map(len, names)) > 3 else {}
    )
    ax.set_xticks(range(k), names, size=NORMAL, parse_math=False, **turned)
    ax.set_yticks(range(k), names, size=NORMAL, parse_math=False)
    ax.set_xlabel("predicted", size=NORMAL, color=INK)
    ax.set_ylabel("true", size=NORMAL, color=INK)
    ax.tick_params(length=0, labelcolor=INK)
    for spine in ax.spines.values():
        spine.set_color(FAINT)
    return png(figure)


def reliability_diagram(cases: np.ndarray, probability: np.ndarray, accuracy: np.ndarray) -> bytes:
    """Accuracy against mean probability of bins of equal width, above the cases in each, which also size the dots; all
    (bins,). The dashed diagonal is perfect calibration."""
    bins, kept = len(cases), cases > 0
    figure = _figure(4.0, 4.6)
    ax, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    ax.plot([0, 1], [0, 1], color=FAINT, lw=1, ls="dashed")
    style: dict[str, Any] = {"edgecolors": "white", "linewidths": 0.6, "zorder": 3, "clip_on": False}
    ax.scatter(probability[kept], accuracy[kept], 12 + 150 * cases[kept] / cases.sum(), COLOURS[0], **style)
    ax.set(xlim=(0, 1), ylim=(-0.02, 1.02))
    ax.set_ylabel("share that is right", size=NORMAL, color=INK)
    below.bar((np.arange(bins) + 0.5) / bins, cases, width=0.9 / bins, color=COLOURS[0], alpha=0.5)
    below.set_xlabel("probability of the most probable class", size=NORMAL, color=INK)
    below.set_ylabel("cases", size=NORMAL, color=INK)
    for panel in (ax, below):
        panel.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
        panel.spines[["top", "right"]].set_visible(False)
    return png(figure)


def image_sheet(images: Sequence[np.ndarray], titles: Sequence[tuple[str, str]], columns: int = 6) -> bytes:
    """One panel an image (H, W, 1 or 3) in [0, 1], under its class and its name. titles: name and class of each."""
    panel, columns = 1.25, min(columns, len(images))
    lines = math.ceil(len(images) / columns)
    figure, axes = sheet([1.0] * lines, [(" ", "")] * lines, [""] * columns, [], "", panel)
    for image, (name, kind), ax in zip(images, titles, (ax for row in axes for ax in row)):
        flat = image[..., 0]
        shades = image if image.shape[-1] == 3 else np.repeat(grey(flat, grey_limits(flat))[..., None], 3, 2)
        ax.imshow(shades.clip(0, 1), aspect="equal", interpolation_stage="rgba")
        ax.set_title(shorten(f"{kind}  {name}", 0.9 * panel, SMALL), size=SMALL, pad=3, parse_math=False)
    return png(figure)


def _figure(width: float, height: float) -> Figure:
    layout = ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06)
    return Figure(figsize=(width, height), dpi=DPI, layout=layout, facecolor="white")
