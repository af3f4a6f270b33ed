"""Histograms of two groups of values side by side, a panel a class and a row a network, as PNG bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from medkd.errors import InputError
from medkd.report.curves import COLOURS, WIDTH
from medkd.report.figures import DPI, FAINT, INK, NORMAL, SMALL, png

BINS = 40
Pair = tuple[np.ndarray, np.ndarray]
"""Values (N,) of the first and of the second group."""


def distribution_grid(
    rows: Mapping[str, Mapping[str, Pair]], groups: tuple[str, str] = ("labelled", "unlabelled")
) -> bytes:
    """A row a network, a panel a class: the densities of both groups and how much they overlap.

    Raises InputError without a value. A class that one group lacks is said to be missing.
    """
    if not any(len(a) and len(b) for row in rows.values() for a, b in row.values()):
        raise InputError(f"no class of {list(rows)} has values of both groups, {' and '.join(groups)}, to compare")
    columns = list(dict.fromkeys(name for row in rows.values() for name in row))
    size = (WIDTH, 0.5 + 1.5 * len(rows))
    figure = Figure(figsize=size, dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.06, h_pad=0.06), facecolor="white")
    panels = figure.subplots(len(rows), len(columns), squeeze=False)
    for line, (name, classes) in zip(panels, rows.items()):
        line[0].set_ylabel(name, size=NORMAL, color=INK, parse_math=False)
        for ax, column in zip(line, columns):
            ax.set_yticks([])
            ax.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
            ax.spines[["top", "right", "left"]].set_visible(False)
            first, second = classes.get(column, (np.empty(0), np.empty(0)))
            if not len(first) or not len(second):
                ax.set_title(f"{column}: missing", size=SMALL, color=FAINT, parse_math=False)
                continue
            edges = shared_edges(first, second)
            for values, colour, group in ((first, COLOURS[0], groups[0]), (second, COLOURS[1], groups[1])):
                ax.hist(values, edges, density=True, color=colour, alpha=0.25, lw=0)
                ax.hist(values, edges, density=True, histtype="step", color=colour, lw=1.3, label=group)
            ax.set_title(f"{column}: overlap {overlap(first, second):.2f}", size=SMALL, color=INK, parse_math=False)
    handles, labels = next(ax.get_legend_handles_labels() for ax in panels.flat if ax.get_legend_handles_labels()[0])
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=SMALL, frameon=False)
    return png(figure)


def overlap(first: np.ndarray, second: np.ndarray) -> float:
    """The area that two histograms on shared bins have in common: 1 for equal distributions, 0 for disjoint ones.

    >>> overlap(np.arange(100.0), np.arange(100.0)), overlap(np.zeros(10), np.ones(10))
    (1.0, 0.0)
    """
    edges = shared_edges(first, second)
    shares: Sequence[np.ndarray] = [np.histogram(v, edges)[0] / len(v) for v in (first, second)]
    return float(np.minimum(*shares).sum())


def shared_edges(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Edges of bins that cover both groups."""
    both = np.concatenate([first, second])
    low, high = float(both.min()), float(both.max())
    return np.linspace(low, high if high > low else low + 1.0, BINS + 1)
