"""Confusion matrices, reliability diagrams and sheets of images: what they show, and what is refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

import medkd.report.classification as pictures
from medkd.errors import InputError
from medkd.report.classification import confusion_matrix, image_sheet, reliability_diagram
from medkd.report.figures import png


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    seen: list[Figure] = []

    def keep(figure: Figure) -> bytes:
        seen.append(figure)
        return png(figure)

    monkeypatch.setattr(pictures, "png", keep)
    return seen


def test_every_count_stands_in_its_cell(drawn: list[Figure]) -> None:
    counts = np.array([[5, 1, 0], [0, 7, 2], [0, 0, 0]])
    first = confusion_matrix(counts, ("round", "square", "a name that is much too long for a tick"))
    ax = drawn[0].axes[0]
    shown = {text.get_position()[::-1]: text.get_text() for text in ax.texts}
    assert shown == {(0, 0): "5", (0, 1): "1", (1, 1): "7", (1, 2): "2"}
    np.testing.assert_allclose(ax.images[0].get_array(), [[5 / 6, 1 / 6, 0], [0, 7 / 9, 2 / 9], [0, 0, 0]])
    assert confusion_matrix(counts, ("round", "square", "a name that is much too long for a tick")) == first
    with pytest.raises(InputError, match="2 classes need"):
        confusion_matrix(counts, ("round", "square"))


def test_bins_without_cases_are_not_drawn(drawn: list[Figure]) -> None:
    cases, nan = np.array([0, 3, 0, 9]), np.nan
    reliability_diagram(cases, np.array([nan, 0.4, nan, 0.9]), np.array([nan, 1 / 3, nan, 0.8]))
    above, below = drawn[0].axes
    dots = above.collections[0]
    np.testing.assert_allclose(dots.get_offsets(), [[0.4, 1 / 3], [0.9, 0.8]])
    assert dots.get_sizes()[1] > dots.get_sizes()[0]
    assert [bar.get_height() for bar in below.patches] == [0, 3, 0, 9]


def test_a_sheet_shows_colours_and_grey() -> None:
    red = np.zeros((6, 8, 3))
    red[..., 0] = 1
    sheet = np.array(Image.open(io.BytesIO(image_sheet([red, np.eye(6)[..., None]], [("a", "x"), ("b", "y")]))))
    assert (np.abs(sheet[..., :3].astype(int) - [255, 0, 0]).max(-1) < 5).sum() > 1000
