"""What happened during training, and how the arms of an experiment compare, as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import MaxNLocator

from medkd.errors import InputError, raise_all
from medkd.report.figures import DPI, FAINT, INK, NORMAL, SMALL, png, shorten
from medkd.report.log_rows import Row, by_phase, candidates, logged, phases, series

WIDTH = 8.2  # inches
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#4d4d4d")
"""Okabe and Ito's palette, the colours that are dark enough for lines on white first."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


def training_curves(log_rows: Sequence[Row], metric: str = "dice") -> bytes:
    """The loss and the validation metric of every candidate over all phases of a run.

    Raises InputError if no row holds a loss or `metric`.
    """
    losses = [row for row in log_rows if row.get("kind") == "train" and "loss" in row]
    scores = [row for row in log_rows if row.get("kind") == "validation" and candidates([row], metric)]
    if not losses and not scores:
        raise InputError(f"no loss and no {metric} to draw in {len(log_rows)} log rows; {logged(log_rows)}")
    figure = _figure(2.5 * bool(losses) + 2.5 * bool(scores) + 0.4)
    panels = figure.subplots(bool(losses) + bool(scores), 1, sharex=True, squeeze=False)[:, 0]
    if losses:
        _loss_panel(panels[0], losses)
    if scores:
        for number, candidate in enumerate(candidates(scores, metric)):
            for rows in by_phase(scores).values():  # a candidate of the next phase is another network
                _line(panels[-1], rows, f"{candidate}/{metric}", number, candidate)
        panels[-1].set_ylabel(f"validation {metric}")
    _finish(figure, list(panels), phases([*losses, *scores]))
    return png(figure)


def compare_curves(
    arms: Mapping[str, Sequence[Row]],
    metric: str = "dice",
    shipped: Mapping[str, str] | None = None,
    words: str | None = None,
) -> bytes:
    """The validation metric of several runs in one panel, arm name -> log rows.

    shipped: arm -> the candidate that ships; by default the first that its last validation names. words: what the
    metric is, if not the validation's. An arm without any value stays in the legend and says so. Raises InputError if
    no arm has one.
    """
    chosen: dict[str, str | None] = {}
    problems = []
    for arm, rows in arms.items():
        scored = [row for row in rows if row.get("kind") == "validation" and candidates([row], metric)]
        names = candidates(scored, metric)
        chosen[arm] = (shipped or {}).get(arm) or next(iter(candidates(scored[-1:], metric)), None)
        if names and chosen[arm] not in names:
            problems.append(f"arm {arm} has no candidate {chosen[arm]!r} with {metric}; logged: {', '.join(names)}")
        elif not names:
            chosen[arm] = None
    raise_all(problems)
    if not any(chosen.values()):
        found = "; ".join(f"{arm}: {logged(rows)}" for arm, rows in arms.items()) or "no arm was given"
        raise InputError(f"no arm has a validation {metric} to draw ({found})")
    figure = _figure(3.4)
    ax = figure.subplots()
    for number, (arm, rows) in enumerate(arms.items()):
        validated = [row for row in rows if row.get("kind") == "validation"]
        label = f"{arm} ({chosen[arm]})" if chosen[arm] else f"{arm} (no validation {metric})"
        _line(ax, validated, f"{chosen[arm]}/{metric}", number, label)
    ax.set_ylabel(words or f"validation {metric}")
    _finish(figure, [ax], [])
    return png(figure)


def arms_figure(values: Mapping[str, Sequence[float]], measure: str = "test Dice") -> bytes:
    """A line an arm: a dot a seed, the mean as a bar, and mean, standard deviation and number of seeds in words.

    Values that are not finite are left out and counted in the words. Raises InputError if there is none.
    """
    finite = {arm: [float(v) for v in runs if math.isfinite(v)] for arm, runs in values.items()}
    if not any(finite.values()):
        raise InputError(f"no value of {measure} to draw for the arms {list(values)}; give every arm a number a seed")
    figure = _figure(0.8 + 0.42 * len(finite))
    ax = figure.subplots()
    for y, (arm, runs) in enumerate(finite.items()):
        spread = 0.4 * (0.618 * np.arange(len(runs)) % 1 - 0.5) * (len(runs) > 1)  # equal values stay countable
        ax.plot(runs, y + spread, "o", ms=5, mfc=COLOURS[0], mec="white", mew=0.6, alpha=0.75, clip_on=False)
        if runs:
            ax.plot(
                [np.mean(runs)] * 2, [y - 0.32, y + 0.32], color=COLOURS[1], lw=2.4, solid_capstyle="butt", zorder=1.5
            )
        words = _spread(runs, len(values[arm]) - len(runs))
        ax.text(1.015, y, words, transform=ax.get_yaxis_transform(), va="center", size=SMALL, color=INK)
    ax.set(ylim=(len(finite) - 0.45, -0.55), xlabel=f"{measure}: one dot a seed, the bar is their mean")
    ax.set_yticks(range(len(finite)), [shorten(arm, 2.2, NORMAL) for arm in finite], parse_math=False)
    _dress(ax, grid="x")
    ax.tick_params(axis="y", length=0)
    return png(figure)


def smoothed(values: np.ndarray, window: int) -> np.ndarray:
    """Mean of the finite values among the `window` (odd) around each point; NaN where there are none."""
    known = np.isfinite(values)
    ones = np.ones(window)
    half = window // 2
    counts = np.convolve(known, ones)[half : half + len(values)]
    sums = np.convolve(np.where(known, values, 0.0), ones)[half : half + len(values)]
    return np.divide(sums, counts, out=np.full(len(values), np.nan), where=counts > 0.5)


def _figure(height: float) -> Figure:
    figure = Figure(figsize=(WIDTH, height), dpi=DPI, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1))
    figure.set_facecolor("white")
    return figure


def _loss_panel(ax: Axes, rows: list[Row]) -> None:
    lost: list[float] = []
    for part in by_phase(rows).values():  # two phases may have two different losses
        steps, values = series(part, "loss")
        window = 2 * (len(values) // 20) + 1
        strength = 0.35 if window > 1 else 1.0
        ax.plot(steps, values, ".-", ms=3, lw=0.8, alpha=strength, color=COLOURS[0], label=_once(ax, "as logged"))
        if window > 1:
            ax.plot(steps, smoothed(values, window), lw=1.7, color=COLOURS[0], label=_once(ax, "smoothed"))
        lost += steps[~np.isfinite(values)].tolist()
    if lost:
        label = f"not finite ({len(lost)})"
        ax.plot(lost, [0.04] * len(lost), "x", color=COLOURS[1], ms=5, transform=ax.get_xaxis_transform(), label=label)
    ax.set_ylabel("training loss")


def _line(ax: Axes, rows: Sequence[Row], key: str, number: int, label: str) -> None:
    steps, values = series([row for row in rows if key in row], key)
    style = ("-", "--")[number // len(COLOURS) % 2]
    marker, colour = MARKERS[number % len(MARKERS)], COLOURS[number % len(COLOURS)]
    label = shorten(label, 2.2, SMALL)
    ax.plot(steps, values, style, marker=marker, ms=3.5, lw=1.4, color=colour, label=_once(ax, label))


def _once(ax: Axes, label: str) -> str | None:
    """The label if the legend does not have it yet: a line is drawn in parts, one a phase."""
    return None if label in ax.get_legend_handles_labels()[1] else label


def _finish(figure: Figure, panels: Sequence[Axes], spans: Sequence[tuple[str, float, float]]) -> None:
    """Axes, legends at the right, and phases as bands with their names on top (numbers where a name is too long)."""
    for ax in panels:
        _dress(ax, grid="both")
        legend = ax.legend(loc="upper left", bbox_to_anchor=(1.01, 1), fontsize=SMALL, frameon=False, borderaxespad=0)
        for text in legend.get_texts():
            text.set_parse_math(False)
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8, steps=[1, 2, 2.5, 5, 10]))
    words = "step"
    if len(spans) > 1:
        length = max(spans[-1][2] - spans[0][1], 1.0)
        narrow = any(shorten(name, 5.5 * (end - start) / length, NORMAL) != name for name, start, end in spans)
        for number, (name, start, end) in enumerate(spans):
            for ax in panels:
                ax.axvspan(start, end, color="#eef1f5" if number % 2 else "white", zorder=0, lw=0)
                if number:
                    ax.axvline(start, color=FAINT, lw=0.8, ls=":")
            above = panels[0].get_xaxis_transform()
            panels[0].text((start + end) / 2, 1.02, str(number + 1) if narrow else name, transform=above, ha="center",
                           va="bottom", size=NORMAL, color=INK, parse_math=False)  # fmt: skip
        panels[-1].set_xlim(spans[0][1], spans[-1][2] + 0.01 * length)
        if narrow:
            words += f"  ({', '.join(f'{number + 1} {name}' for number, (name, _, _) in enumerate(spans))})"
    panels[-1].set_xlabel(words, parse_math=False)
    figure.align_ylabels(panels)


def _dress(ax: Axes, grid: Literal["x", "both"]) -> None:
    ax.spines[["top", "right"]].set_visible(False)
    ax.spines[["left", "bottom"]].set_color(FAINT)
    ax.tick_params(labelsize=SMALL, color=FAINT, labelcolor=INK)
    ax.grid(axis=grid, color="#d5dae1", lw=0.6)
    ax.set_axisbelow(True)
    for label in (ax.xaxis.label, ax.yaxis.label):
        label.set(size=NORMAL, color=INK)


def _spread(runs: list[float], undefined: int) -> str:
    parts = []
    if runs:
        deviation = f" ± {np.std(runs, ddof=1):.3f}" if len(runs) > 1 else ""
        parts.append(f"{np.mean(runs):.3f}{deviation} (n = {len(runs)})")
    if undefined:
        parts.append(f"{undefined} undefined")
    return ", ".join(parts) or "no runs"
