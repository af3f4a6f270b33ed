from __future__ import annotations

import io

import numpy as np
import pytest
from matplotlib.image import imread

from medkd.errors import InputError
from medkd.report.contact_sheet import COLUMNS, contact_sheet
from medkd.report.slices import Slice


def shown(cases: list[Slice]) -> np.ndarray:
    return imread(io.BytesIO(contact_sheet(cases, ("background", "organ"))))[..., :3]


def case(number: int, labelled: bool = True) -> Slice:
    image = np.zeros((20, 30))
    image[:, number % 30] = 1
    label = np.zeros((20, 30), np.uint8)
    label[5:12, 5:12] = 1
    return Slice(f"case_{number}", image, label if labelled else None)


def test_every_case_has_a_panel() -> None:
    one_row, two_rows = shown([case(n) for n in range(COLUMNS)]), shown([case(n) for n in range(COLUMNS + 1)])
    assert two_rows.shape[0] > 1.5 * one_row.shape[0]
    assert two_rows.shape[1] == one_row.shape[1]


def test_the_label_is_drawn_in() -> None:
    coloured = [np.ptp(shown([case(0, labelled)]), -1).max() > 0.3 for labelled in (True, False)]
    assert coloured == [True, False]


def test_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="no case to draw"):
        contact_sheet([], ("background", "organ"))
