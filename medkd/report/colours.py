"""Colours people can tell apart whatever their colour vision, and grey images tinted with them (pure NumPy)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from matplotlib.colors import to_rgb

OKABE_ITO = ("#E69F00", "#56B4E9", "#CC79A7", "#009E73", "#F0E442", "#D55E00", "#0072B2")
"""The palette of Okabe and Ito (2008) without black, ordered so that the first few stand out on grey tissue."""
LINES = ("solid", "dashed", "dotted")
"""No palette holds more than about 8 colours that stay apart: class 8 has the colour of class 1 with a dashed line."""

MISSED, FALSE_ALARM, WRONG_CLASS = 1, 2, 3
DISAGREEMENT = {
    MISSED: ("missed", "#FF4B3E"),
    FALSE_ALARM: ("false alarm", "#2F7BFF"),
    WRONG_CLASS: ("wrong class", "#FFE14D"),
}


def class_colour(index: int) -> str:
    """Colour of class `index`, 1 or more (0 is the background)."""
    return OKABE_ITO[(index - 1) % len(OKABE_ITO)]


def class_line(index: int) -> str:
    """Line style of the contour of class `index`."""
    return LINES[(index - 1) // len(OKABE_ITO) % len(LINES)]


def disagreement_colour(code: int) -> str:
    return DISAGREEMENT[code][1]


def grey_limits(*images: np.ndarray) -> tuple[float, float]:
    """The 1st and 99th percentile of the finite values of all images: one bright vessel does not darken the rest.

    Images that are almost everywhere constant use their full range.
    """
    values = np.concatenate([np.asarray(image, dtype=np.float64).ravel() for image in images])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = (float(v) for v in np.percentile(values, (1, 99)))
    return (low, high) if high > low else (float(values.min()), float(values.max()))


def grey(image: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """float64 of the image's shape in [0, 1]; values that are not finite, and constant images, become 0."""
    low, high = limits
    if not high > low:
        return np.zeros(image.shape)
    return np.nan_to_num((np.asarray(image, dtype=np.float64) - low) / (high - low), nan=0.0).clip(0, 1)


def tint(shades: np.ndarray, codes: np.ndarray, colour: Callable[[int], str], opacity: float = 0.4) -> np.ndarray:
    """(H, W) in [0, 1] to RGB (H, W, 3): where `codes` (H, W) is above 0, mixed with the colour of that code."""
    picture = np.repeat(shades[..., None], 3, axis=2)
    for code in np.unique(codes[codes > 0]):
        where = codes == code
        picture[where] = (1 - opacity) * picture[where] + opacity * np.array(to_rgb(colour(int(code))))
    return picture


def disagreement(truth: np.ndarray, prediction: np.ndarray) -> np.ndarray:
    """uint8: 0 where both agree, else MISSED (only in the truth), FALSE_ALARM (only predicted) or WRONG_CLASS."""
    codes = np.zeros(truth.shape, dtype=np.uint8)
    codes[(truth > 0) & (prediction <= 0)] = MISSED
    codes[(truth <= 0) & (prediction > 0)] = FALSE_ALARM
    codes[(truth > 0) & (prediction > 0) & (truth != prediction)] = WRONG_CLASS
    return codes
