"""Colours found in pictures, and the figures behind them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

import medkd.report.curves
import medkd.report.pictures
from medkd.report.figures import png


@pytest.fixture
def box_of() -> Callable[[np.ndarray, object], tuple[int, int, int, int]]:
    """Bounding box (left, top, right, bottom) of the pixels of a colour."""

    def box(picture: np.ndarray, colour: object) -> tuple[int, int, int, int]:
        rgb = np.array(to_rgb(colour) if isinstance(colour, str) else colour)
        rows, columns = np.nonzero((np.abs(picture - rgb) < 0.02).all(-1))
        assert len(rows), f"no pixel of colour {colour}"
        return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1

    return box


@pytest.fixture
def figures(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """Every figure that is turned into a PNG during the test."""
    seen: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        seen.append(figure)
        return png(figure)

    monkeypatch.setattr(medkd.report.curves, "png", keep)
    monkeypatch.setattr(medkd.report.pictures, "png", keep)
    return seen


@pytest.fixture
def check_layout() -> Callable[[Figure], None]:
    """No text leaves the figure, meets another text, or lies on a panel of an image."""

    def check(figure: Figure) -> None:
        texts = [*figure.texts, *(t for legend in figure.legends for t in legend.get_texts())]
        texts += [ax.title for ax in figure.axes if ax.get_title()]
        for ax in figure.axes:
            texts += [t for t in ax.texts if t.get_text()]
            texts += ax.get_legend().get_texts() if ax.get_legend() else []
            for axis in (ax.xaxis, ax.yaxis) if ax.axison else ():
                low, high = sorted(axis.get_view_interval())
                ticks = zip(axis.get_ticklocs(), axis.get_ticklabels())
                texts += [axis.label, *(t for where, t in ticks if low <= where <= high and t.get_visible())]
        boxes = [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text().strip()]
        boxes = [(text, box) for text, box in boxes if box.width > 0]
        for number, (text, box) in enumerate(boxes):
            over = max(-box.x0, -box.y0, box.x1 - figure.bbox.x1, box.y1 - figure.bbox.y1)
            assert over < 0.5, f"{text!r} leaves the figure: {box}"
            for other, second in boxes[number + 1 :]:
                assert not _meet(box, second), f"{text!r} meets {other!r}"
            for ax in figure.axes:
                assert not (ax.images and _meet(box, ax.get_window_extent())), f"{text!r} lies on an image"
        for ax in figure.axes:
            for entry in ax.get_legend().get_texts() if ax.get_legend() else []:
                met = [_meet(entry.get_window_extent(), other.get_window_extent()) for other in figure.axes]
                assert not any(met), f"{entry.get_text()!r} lies on the curves"

    return check


def _meet(a: object, b: object) -> bool:
    return min(a.x1, b.x1) - max(a.x0, b.x0) > 0.5 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.5  # type: ignore[attr-defined]
