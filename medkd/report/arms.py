"""Several metrics of several arms side by side, a dot a seed, as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from medkd.errors import InputError
from medkd.report.curves import COLOURS, WIDTH
from medkd.report.figures import DPI, FAINT, INK, NORMAL, SMALL, png, shorten, wrap

COLUMNS = 3
"""Panels in a row."""


def arms_panels(metrics: Mapping[str, Mapping[str, Sequence[float]]]) -> bytes:
    """metrics: words -> arm -> a value a seed. A panel a metric with an arm a line; the bar is the mean of the seeds.

    An arm without a value of a metric has an empty line there; values that are not finite are left out. Raises
    InputError without any value.
    """
    shown = {
        words: {arm: [v for v in found if math.isfinite(v)] for arm, found in arms.items()}
        for words, arms in metrics.items()
    }
    shown = {words: arms for words, arms in shown.items() if any(arms.values())}
    if not shown:
        raise InputError(f"no value of {', '.join(metrics)} to draw; give every arm a number a seed")
    names = list(dict.fromkeys(arm for arms in shown.values() for arm in arms))
    columns = min(COLUMNS, len(shown))
    lines = math.ceil(len(shown) / columns)
    figure = Figure(
        figsize=(WIDTH, lines * (0.85 + 0.27 * len(names))), dpi=DPI, facecolor="white",
        layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.08),
    )  # fmt: skip
    panels = figure.subplots(lines, columns, sharey=True, squeeze=False)
    width = (WIDTH - 2.2) / columns
    for ax, (words, arms) in zip(panels.flat, shown.items()):
        for y, arm in enumerate(names):
            runs = arms.get(arm, [])
            if not runs:
                continue  # an empty line without clipping has no place, and the layout fails
            spread = 0.4 * (0.618 * np.arange(len(runs)) % 1 - 0.5) * (len(runs) > 1)  # equal values stay countable
            ax.plot(runs, y + spread, "o", ms=4, mfc=COLOURS[0], mec="white", mew=0.5, alpha=0.75, clip_on=False)
            ax.plot([np.mean(runs)] * 2, [y - 0.34, y + 0.34], color=COLOURS[1], lw=2.2, solid_capstyle="butt")
        ax.set_xlabel("\n".join(wrap(words, width, NORMAL)), size=NORMAL, color=INK, parse_math=False)
        ax.set_ylim(len(names) - 0.45, -0.55)
        ax.set_yticks(range(len(names)), [shorten(arm, 2.1, NORMAL) for arm in names], parse_math=False)
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(FAINT)
        ax.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
        ax.tick_params(axis="y", length=0)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
        ax.grid(axis="x", color="#d5dae1", lw=0.6)
        ax.set_axisbelow(True)
    for ax in list(panels.flat)[len(shown) :]:
        ax.set_axis_off()
    return png(figure)
