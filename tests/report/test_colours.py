from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from matplotlib.colors import to_rgb
from skimage.color import deltaE_ciede2000, rgb2lab

from medkd.report.colours import (
    DISAGREEMENT,
    FALSE_ALARM,
    MISSED,
    OKABE_ITO,
    WRONG_CLASS,
    class_colour,
    class_line,
    disagreement,
    grey,
    grey_limits,
    tint,
)

# Machado, Oliveira & Fernandes 2009, full dichromacy, for linear RGB.
VISION = {
    "usual": np.eye(3),
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.01182, 0.04294, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.3039]],
}


def seen(colour: str, vision: str) -> np.ndarray:
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    turned = (np.array(VISION[vision]) @ linear).clip(0, 1)
    return rgb2lab(np.where(turned <= 0.0031308, turned * 12.92, 1.055 * turned ** (1 / 2.4) - 0.055))


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize(
    "palette", [OKABE_ITO, [colour for _, colour in DISAGREEMENT.values()]], ids=["classes", "errors"]
)
def test_every_pair_of_colours_stays_apart(palette: list[str], vision: str) -> None:
    """CIEDE2000: 2 can just be told apart side by side; tab:green and tab:red come to 4.6 in deuteranopia."""
    for a, b in itertools.combinations(palette, 2):
        assert deltaE_ciede2000(seen(a, vision), seen(b, vision)) > 10, (a, b)


def test_classes_past_the_palette_differ_by_their_line() -> None:
    looks = [(class_colour(i), class_line(i)) for i in range(1, 22)]
    assert len(set(looks)) == 21
    assert looks[0] == (OKABE_ITO[0], "solid")
    assert looks[7] == (OKABE_ITO[0], "dashed")


def test_tint_mixes_where_the_label_is_and_nowhere_else() -> None:
    shades = np.array([[0.0, 0.5], [1.0, 0.2]])
    codes = np.array([[1, 0], [2, -1]])  # negative: not a class
    picture = tint(shades, codes, class_colour, opacity=0.25)
    np.testing.assert_allclose(picture[0, 0], 0.25 * np.array(to_rgb(OKABE_ITO[0])))
    np.testing.assert_allclose(picture[1, 0], 0.75 + 0.25 * np.array(to_rgb(OKABE_ITO[1])))
    np.testing.assert_allclose(picture[0, 1], 0.5)
    np.testing.assert_allclose(picture[1, 1], 0.2)


def test_disagreement_by_hand() -> None:
    truth = np.array([0, 1, 0, 1, 2])
    prediction = np.array([0, 0, 1, 2, 2])
    assert disagreement(truth, prediction).tolist() == [0, MISSED, FALSE_ALARM, WRONG_CLASS, 0]


@given(hnp.arrays(np.uint8, (2, 5, 4), elements=st.integers(0, 3)))
def test_swapping_truth_and_prediction_swaps_missed_and_false_alarm(pair: np.ndarray) -> None:
    there, back = disagreement(pair[0], pair[1]), disagreement(pair[1], pair[0])
    assert ((there == MISSED) == (back == FALSE_ALARM)).all()
    assert ((there == WRONG_CLASS) == (back == WRONG_CLASS)).all()
    assert ((there > 0) == (pair[0] != pair[1])).all()


def test_one_bright_pixel_does_not_darken_the_image() -> None:
    image = np.linspace(0, 1, 1000).reshape(20, 50)
    image[3, 3] = 1e6
    shades = grey(image, grey_limits(image))
    assert 0.45 < shades[10, 0] < 0.55
    assert shades[3, 3] == 1


@pytest.mark.filterwarnings("error")
@given(hnp.arrays(np.float32, (4, 5), elements=st.floats(width=32)))
def test_grey_is_always_between_0_and_1(image: np.ndarray) -> None:
    shades = grey(image, grey_limits(image))
    assert ((shades >= 0) & (shades <= 1)).all()


def test_an_almost_constant_image_keeps_its_signal() -> None:
    image = np.zeros((30, 30))
    image[4, 4] = 2.0
    assert grey(image, grey_limits(image))[4, 4] == 1
    assert not grey(np.full((3, 3), 7.0), grey_limits(np.full((3, 3), 7.0))).any()
