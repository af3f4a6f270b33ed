"""From stored values to modality values: slope and intercept of each slice, in the smallest type that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydicom import Dataset

from medkd.imaging.dicom import tags
from medkd.imaging.dicom.values import item, items, number, text


class Scaling(NamedTuple):
    """value = stored * slope + intercept."""

    slope: float = 1.0
    intercept: float = 0.0


def scaling(header: Dataset, frame: int) -> Scaling | str:
    """Of a frame of a file, or why it cannot be applied, in words."""
    per_frame = items(header, tags.PER_FRAME_FUNCTIONAL_GROUPS)
    groups = [per_frame[frame]] if frame < len(per_frame) else []
    groups += items(header, tags.SHARED_FUNCTIONAL_GROUPS)[:1]
    source = next((i for g in groups if (i := item(g, tags.PIXEL_VALUE_TRANSFORMATION)) is not None), header)
    if items(header, tags.MODALITY_LUT_SEQUENCE):
        return "its values need a modality lookup table, which is not supported"
    found = []
    for tag, default in ((tags.RESCALE_SLOPE, 1.0), (tags.RESCALE_INTERCEPT, 0.0)):
        value = number(source, tag)
        if value is None and (stated := text(source, tag)):
            return f"its rescale slope or intercept is not a number ({stated[:20]!r})"
        found.append(default if value is None else value)
    return Scaling(*found) if found[0] else "its rescale slope is 0"


def apply(stored: np.ndarray, scalings: Sequence[Scaling]) -> np.ndarray:
    """Modality values of slices (Z, Y, X), one Scaling each; `stored` may be changed.

    Slopes of 1 and whole intercepts keep the stored type where the values fit it, else int16, else int32; others give
    float32 where that is exact, else float64.
    """
    slopes, intercepts = np.array(scalings, np.float64).T
    if (slopes == 1).all() and (intercepts == np.rint(intercepts)).all() and np.abs(intercepts).max() < 2**31:
        return _shifted(stored, intercepts.astype(np.int64))
    values = stored * slopes[:, None, None] + intercepts[:, None, None]
    single = values.astype(np.float32)
    return single if np.array_equal(single, values) else values


def _shifted(stored: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
    if not intercepts.any():
        return stored
    low = int((stored.min((1, 2)).astype(np.int64) + intercepts).min())
    high = int((stored.max((1, 2)).astype(np.int64) + intercepts).max())
    for kind in (stored.dtype, np.dtype(np.int16), np.dtype(np.int32), np.dtype(np.int64)):
        if np.iinfo(kind).min <= low and high <= np.iinfo(kind).max:
            break
    if kind.itemsize != stored.dtype.itemsize:
        return stored + intercepts.astype(kind)[:, None, None]
    result = stored.view(kind)
    with np.errstate(over="ignore"):  # sums wrap around twice where they pass the border of the unsigned type
        result += intercepts.astype(kind)[:, None, None]
    return result
