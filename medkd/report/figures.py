"""What every figure shares: PNG bytes from matplotlib's object API (no pyplot, no window), and sheets of panels."""

from __future__ import annotations

import io
import textwrap
import warnings
from collections.abc import Sequence
from math import ceil
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

DPI = 150
GAP = 0.06  # inches between panels
MARGIN = 0.1
LINE = 0.165  # inches a line of text takes
ABOVE = 0.1  # inches that set a row's title apart from the row above
KEY = 0.156  # inches a line of a legend takes
SMALL, NORMAL = 7.5, 8.5  # points
INK, FAINT = "#1b1f24", "#5b6470"


def png(figure: Figure) -> bytes:
    """The figure as PNG bytes; the same figure gives the same bytes."""
    with io.BytesIO() as file, warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)  # case ids may be written in any script
        figure.savefig(file, format="png", metadata={"Software": None})
        return file.getvalue()


def sheet(
    ratios: Sequence[float],
    titles: Sequence[tuple[str, str]],
    headings: Sequence[str],
    legends: Sequence[tuple[str, Sequence[Patch]]],
    caption: str,
    panel: float,
) -> tuple[Figure, list[list[Axes]]]:
    """A figure of rows of panels, placed in inches so that no text can meet a picture.

    ratios: height over width of each row's panels. titles: of each row, bold and plain part. headings: of the columns.
    legends: name and entries, one after the other at the foot. panel: inches a panel is wide.
    """
    columns = len(headings)
    width = max(columns * (panel + GAP) - GAP, 4.2)
    left = (width - columns * (panel + GAP) + GAP) / 2 + MARGIN
    plain = [wrap(text, width, SMALL) for _, text in titles]
    tops = [ABOVE + LINE * (bool(bold) + len(lines)) for (bold, _), lines in zip(titles, plain)]
    heads = LINE if any(headings) else 0.0
    keys = [ceil(len(entries) / _legend_columns(entries, width)) for _, entries in legends]
    foot = wrap(caption, width, SMALL)
    below = sum(KEY * rows + 0.04 for rows in keys) + LINE * len(foot) + 0.25
    height = heads + sum(tops) + sum(panel * r + GAP for r in ratios) + below
    size = (width + 2 * MARGIN, height)
    figure = Figure(figsize=size, dpi=DPI, facecolor="white")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        options: dict[str, Any] = {"size": SMALL, "color": INK, "va": "top"} | style
        figure.text(x / size[0], 1 - y / size[1], text, parse_math=False, **options)

    y = MARGIN
    for column, heading in enumerate(headings):
        write(left + column * (panel + GAP) + panel / 2, y, heading, ha="center", color=FAINT, size=NORMAL)
    y += heads
    axes = []
    for (bold, _), lines, top, ratio in zip(titles, plain, tops, ratios):
        if bold:
            write(left, y + ABOVE, shorten(bold, width, NORMAL), weight="bold", size=NORMAL)
        for number, line in enumerate(lines):
            write(left, y + ABOVE + LINE * (bool(bold) + number), line, color=FAINT)
        y += top
        boxes = [(left + c * (panel + GAP), size[1] - y - panel * ratio, panel, panel * ratio) for c in range(columns)]
        axes.append([figure.add_axes((x / size[0], b / size[1], w / size[0], h / size[1])) for x, b, w, h in boxes])
        for ax in axes[-1]:
            ax.set_axis_off()
        y += panel * ratio + GAP
    y += 0.04
    for (name, entries), rows in zip(legends, keys):
        write(MARGIN, y + 0.015, name, weight="bold")
        _legend(figure, entries, (MARGIN + 0.9) / size[0], 1 - y / size[1], _legend_columns(entries, width))
        y += KEY * rows + 0.04
    for number, line in enumerate(foot):
        write(MARGIN, y + 0.03 + LINE * number, line, color=FAINT)
    return figure, axes


def _legend(figure: Figure, entries: Sequence[Patch], x: float, y: float, columns: int) -> None:
    made = figure.legend(
        handles=entries, loc="upper left", bbox_to_anchor=(x, y), ncols=columns, fontsize=SMALL, frameon=False,
        borderpad=0.1, borderaxespad=0, handlelength=1.4, columnspacing=1.2, labelspacing=0.45,
    )  # fmt: skip
    for text in made.get_texts():
        text.set_parse_math(False)


def _legend_columns(entries: Sequence[Patch], width: float) -> int:
    longest = max((len(str(entry.get_label())) for entry in entries), default=1)
    return max(1, int((width - 0.9) / (_inches(longest, SMALL) + 0.35)))


def _inches(characters: int, points: float) -> float:
    """About how wide a text is: the mean letter of DejaVu Sans is 0.58 of its height."""
    return characters * points * 0.58 / 72


def wrap(text: str, inches: float, points: float) -> list[str]:
    """Lines that fit."""
    return textwrap.wrap(_printable(text), max(10, int(inches / _inches(1, points))))


def shorten(text: str, inches: float, points: float) -> str:
    """The text, its middle left out if it does not fit: case ids tend to differ at their ends."""
    text, room = _printable(text), max(5, int(inches / _inches(1, points)))
    if len(text) <= room:
        return text
    return f"{text[: room // 2]}…{text[len(text) - (room - room // 2 - 1) :]}"


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in text)
