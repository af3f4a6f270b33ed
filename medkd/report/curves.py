"""Curves of training and of validation, from the rows of log.jsonl."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from medkd.errors import InputError

Rows = Sequence[Mapping[str, Any]]
LINES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")


def training_curves(rows: Rows, metric: str = "dice") -> bytes:
    """The loss, and the validation score of every candidate, over all phases; phases are separated by lines."""
    train = [r for r in rows if r["kind"] == "train"]
    validation = [r for r in rows if r["kind"] == "validation"]
    if not train and not validation:
        raise InputError("the log has no row to draw; was the run stopped before its first?")
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    steps = np.array([r["global_step"] for r in train])
    losses = np.array([r["loss"] for r in train], float)
    left.plot(steps, losses, color=LINES[0], alpha=0.3, linewidth=1)
    left.plot(steps, _smooth(losses), color=LINES[0], linewidth=1.8)
    left.set(xlabel="update", ylabel="training loss")
    names = sorted({k.split("/")[0] for r in validation for k in r if k.endswith(f"/{metric}")})
    for name, line in zip(names, LINES):
        points = [(r["global_step"], r[f"{name}/{metric}"]) for r in validation if f"{name}/{metric}" in r]
        right.plot(*zip(*points), color=line, marker="o", markersize=3, label=name)
    right.set(xlabel="update", ylabel=f"validation {metric.capitalize()}", ylim=(0, 1))
    if names:
        right.legend(fontsize=8, frameon=False)
    for axes in (left, right):
        _phases(axes, rows)
        _plain(axes)
    return _png(figure)


def compare_curves(arms: Mapping[str, Rows], candidate: str = "student", metric: str = "dice") -> bytes:
    """The validation score of several runs in one panel."""
    if not arms:
        raise InputError("no run to draw; give at least one")
    figure = Figure(figsize=(6, 3.4), layout="constrained")
    axes = figure.subplots()
    for (name, rows), line in zip(arms.items(), LINES):
        key = f"{candidate}/{metric}"
        points = [(r["global_step"], r[key]) for r in rows if r["kind"] == "validation" and key in r]
        axes.plot(*(zip(*points) if points else ([], [])), color=line, marker="o", markersize=3, label=name)
    axes.set(xlabel="update", ylabel=f"validation {metric.capitalize()}", ylim=(0, 1))
    axes.legend(fontsize=8, frameon=False)
    _plain(axes)
    return _png(figure)


def arms_figure(arms: Mapping[str, Sequence[float]], label: str = "test Dice") -> bytes:
    """One line an arm: a dot a seed and a bar at the mean."""
    if not arms:
        raise InputError("no arm to draw; give at least one")
    figure = Figure(figsize=(6.5, 0.4 * len(arms) + 0.9), layout="constrained")
    axes = figure.subplots()
    for number, values in enumerate(arms.values()):
        axes.plot(values, [number] * len(values), "o", color=LINES[0], alpha=0.6, markersize=5)
        axes.plot([np.mean(values)] * 2, [number - 0.3, number + 0.3], color=LINES[1], linewidth=2)
    axes.set_yticks(range(len(arms)), list(arms), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(label)
    _plain(axes)
    return _png(figure)


def _smooth(values: np.ndarray, window: int = 9) -> np.ndarray:
    """Median over a window, which a single wild step does not bend; undefined values are left out."""
    half = window // 2
    return np.array([_median(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def _median(values: np.ndarray) -> float:
    finite = values[np.isfinite(values)]
    return float(np.median(finite)) if len(finite) else float("nan")


def _phases(axes: Axes, rows: Rows) -> None:
    starts: dict[str, int] = {}
    for row in rows:
        starts.setdefault(row["phase"], row["global_step"] - row["step"])
    for name, start in starts.items():
        if start > 0:
            axes.axvline(start, color="#999999", linewidth=0.8, linestyle="--")
        axes.annotate(
            name, (start, 1), xycoords=("data", "axes fraction"), xytext=(3, 2), textcoords="offset points", fontsize=7
        )


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
