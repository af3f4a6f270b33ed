"""The stain expert: white cells whatever the light, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest
from smears import smear

from medkd.claims import stain_expert
from medkd.claims.blood_cell_data import shifted
from medkd.claims.stain_expert import white_cells
from medkd.metrics.matching import box_iou

SEEN = {
    "as it is": lambda pixels: pixels,
    "another laboratory": shifted,
    "a blue lamp": lambda pixels: (pixels * np.array([0.7, 0.85, 1.0])).astype(np.uint8),
    "twice as large": lambda pixels: pixels.repeat(2, 0).repeat(2, 1),
}


@pytest.mark.parametrize("how", SEEN)
def test_it_finds_the_white_cell_whatever_the_light(how: str) -> None:
    for seed in range(4):
        pixels, boxes = smear(np.random.default_rng(seed))
        seen = SEEN[how](pixels)
        truth = np.array([box for label, box in boxes if label == "WBC"], float) * (len(seen) / len(pixels))
        found = white_cells(seen, label=1)
        assert found.labels.tolist() == [1]
        assert box_iou(found.boxes.numpy(), truth)[0, 0] > 0.6
        assert found.scores.tolist() == [1.0]


def test_red_cells_and_platelets_are_nothing_to_it() -> None:
    for seed in range(4):
        assert len(white_cells(smear(np.random.default_rng(seed), white=False)[0])) == 0
    assert len(white_cells(np.full((40, 50, 3), 255, np.uint8))) == 0
    assert len(white_cells(np.zeros((40, 50, 3), np.uint8))) == 0


def test_boxes_stay_in_the_image() -> None:
    pixels, boxes = smear(np.random.default_rng(0))
    (_, y0, _, y1) = next(box for label, box in boxes if label == "WBC")
    cut = pixels[: (y0 + y1) // 2 + 4]  # through the white cell
    found = white_cells(cut).boxes
    assert len(found) == 1
    assert found[0, 3] == len(cut)


def test_the_constants_are_those_that_were_chosen_on_the_source() -> None:
    """`benchmarks/stain_expert.py` prints how; a change is a new expert, whose lines are other lines."""
    assert (stain_expert.SIDE, stain_expert.WHITE) == (160, 95)
    chosen = (stain_expert.LEAST, stain_expert.BRIDGE, stain_expert.LEAST_AREA, stain_expert.GROWN)
    assert chosen == (0.9, 6, 0.014, 0.17)
