"""Weak and strong views of one volume for detection: flips, shared; contrast, brightness, noise and erased blocks."""

from __future__ import annotations

import numpy as np
import torch

from medkd.data.augment2d import Views
from medkd.data.detection_options import DetectionAugment
from medkd.data.image_preprocess import as_float


def volume_views(volume: np.ndarray, seed: int, options: DetectionAugment) -> Views:
    """The two views of (X, Y, Z), uint8 or uint16, as a pure function of the seed: the same shape, float32 in [0, 1].

    The matrix is (4, 4), along the axes of the array. Options for colours, turns, scale and shift have no effect.
    """
    rng = np.random.default_rng(seed)
    matrix = np.eye(4)
    draws, values = rng.uniform(size=8), rng.uniform(-1, 1, size=2)
    weak = as_float(volume)
    for axis, chance in enumerate(options.flip[:3]):
        if draws[axis] < chance:
            weak = np.flip(weak, axis)
            matrix[axis, axis], matrix[axis, 3] = -1, volume.shape[axis]
    strong = weak.copy()
    if draws[3] < options.colour:
        strong = (strong - strong.mean()) * (1 + options.contrast * values[0]) + strong.mean()
        strong = strong + options.brightness * values[1] / 4
    if draws[4] < options.noise:
        strong = strong + rng.normal(0, 0.05 * draws[5], strong.shape)
    for chance in options.erase:
        share = rng.uniform(*options.erase_area) ** (1 / 3)
        sides = np.maximum(1, (share * np.array(strong.shape)).astype(int))
        low = rng.integers(0, np.array(strong.shape) - sides + 1)
        if rng.uniform() < chance:
            strong[tuple(slice(a, a + n) for a, n in zip(low, sides))] = rng.uniform()
    return Views(np.ascontiguousarray(weak), strong.clip(0, 1).astype(np.float32), torch.from_numpy(matrix))
