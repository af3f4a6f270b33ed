"""Test Dice of many cases by arm as a grid of colours, as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from medkd.errors import InputError
from medkd.report.curves import WIDTH
from medkd.report.figures import DPI, FAINT, INK, NORMAL, SMALL, png, shorten


def score_grid(scores: Mapping[str, Mapping[str, float]]) -> bytes:
    """scores: arm -> case -> test Dice. A line an arm with its mean, a column a case, the hardest at the left.

    A case that an arm lacks, or whose score is not defined (NaN), stays white. Raises InputError without a score.
    """
    known = {arm: {case: v for case, v in found.items() if math.isfinite(v)} for arm, found in scores.items()}
    cases = list(dict.fromkeys(case for found in known.values() for case in found))
    if not cases:
        raise InputError(f"no test Dice to draw for the arms {list(scores)}; give every arm a score a case")
    grid = np.array([[found.get(case, np.nan) for case in cases] for found in known.values()])
    order = np.nanmean(grid, 0).argsort(kind="stable")
    grid, cases = grid[:, order], [cases[i] for i in order]
    size = (WIDTH, 1.9 + 0.22 * len(scores))
    figure = Figure(figsize=size, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.08, h_pad=0.08), facecolor="white")
    ax = figure.subplots()
    drawn = ax.imshow(grid, aspect="auto", cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    ax.set_yticks(range(len(scores)), [shorten(arm, 2.2, NORMAL) for arm in scores], parse_math=False, size=SMALL)
    names = [shorten(case, 1.2, SMALL) for case in cases]
    ax.set_xticks(range(len(cases)), names, rotation=90, parse_math=False, size=min(SMALL, 250 / len(cases)))
    for y, row in enumerate(grid):
        words = f"{np.nanmean(row):.3f}" if np.isfinite(row).any() else "none"
        ax.text(1.01, y, words, transform=ax.get_yaxis_transform(), va="center", size=SMALL, color=INK)
    ax.tick_params(length=0, labelcolor=INK)
    ax.spines[:].set_visible(False)
    bar = figure.colorbar(drawn, ax=ax, pad=0.07, fraction=0.03)
    bar.set_label("test Dice (mean at the line's end)", size=SMALL, color=INK)
    bar.ax.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
    bar.outline.set_visible(False)
    return png(figure)
