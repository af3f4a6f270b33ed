"""Weak and strong views of one image for detection. The only file that knows albumentations and OpenCV.

Both views show the same place: ONE geometric transform, drawn here, recorded as a matrix, applied to pixels and boxes
by the same matrix. albumentations (2.0.8, archived: hence one file) changes colours, blurs and erases. Its own
geometric transforms are not used: exact boxes need the half pixel between pixel centres and box edges.
"""

from __future__ import annotations

import os
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from medkd.data.box_geometry import clip_boxes, map_boxes, unmap_boxes
from medkd.data.detection_options import DetectionAugment
from medkd.data.image_preprocess import as_float
from medkd.errors import InputError

__all__ = ["Views", "clip_boxes", "map_boxes", "unmap_boxes", "views"]


class Views(NamedTuple):
    """weak, strong: (H, W, C) float32 in [0, 1]. matrix: (3, 3) float64, from the given image to both views."""

    weak: np.ndarray
    strong: np.ndarray
    matrix: Tensor


def views(image: np.ndarray, seed: int, options: DetectionAugment) -> Views:
    """The two views of an image (H, W, C), uint8 or uint16, as a pure function of the seed."""
    cv2 = _opencv()
    height, width, channels = image.shape
    matrix = draw_geometry(np.random.default_rng(seed), (height, width), options)
    pixels = image if image.dtype == np.uint8 else as_float(image)
    if not np.array_equal(matrix, np.eye(3)):
        half = np.array([[1, 0, 0.5], [0, 1, 0.5], [0, 0, 1]])
        centres = np.linalg.inv(half) @ matrix @ half  # cv2 counts pixel centres from 0, `matrix` edges
        pixels = cv2.warpAffine(pixels, centres[:2], (width, height), flags=cv2.INTER_LINEAR)
        pixels = pixels.reshape(height, width, channels)
    strong = _strong(options, channels)
    strong.set_random_seed(seed)
    changed = strong(image=np.ascontiguousarray(pixels))["image"].reshape(pixels.shape)
    return Views(_float(pixels), _float(changed), torch.from_numpy(matrix))


def draw_geometry(rng: np.random.Generator, size: tuple[int, int], options: DetectionAugment) -> np.ndarray:
    """(3, 3) float64, original to view, in continuous pixels x, y: turn, flips, then scale about the centre, shift."""
    height, width = size
    draws = rng.uniform(size=6)  # always as many: one option changes no other
    quarter = int(rng.integers(1, 4))
    matrix = np.eye(3)
    if draws[0] < options.turn:
        if height != width:
            raise InputError(f"augment.turn needs square images, not {height} x {width}; set turn: 0")
        for _ in range(quarter):
            matrix = np.array([[0.0, -1, height], [1, 0, 0], [0, 0, 1]]) @ matrix
    if draws[1] < options.flip[0]:
        matrix = np.array([[-1.0, 0, width], [0, 1, 0], [0, 0, 1]]) @ matrix
    if draws[2] < options.flip[1]:
        matrix = np.array([[1.0, 0, 0], [0, -1, height], [0, 0, 1]]) @ matrix
    low, high = options.scale
    scale = low + (high - low) * draws[3]
    x = (2 * draws[4] - 1) * options.shift * width + (1 - scale) * width / 2
    y = (2 * draws[5] - 1) * options.shift * height + (1 - scale) * height / 2
    return np.array([[scale, 0, x], [0, scale, y], [0, 0, 1]]) @ matrix


@lru_cache(maxsize=8)
def _strong(options: DetectionAugment, channels: int) -> Any:
    """What makes a weak view strong. Its random state is set anew before every image."""
    A = _albumentations()
    o = options
    jitter = [(1 - v, 1 + v) for v in (o.brightness, o.contrast, o.saturation if channels == 3 else 0)]
    steps = [A.ColorJitter(*jitter, hue=(-o.hue, o.hue) if channels == 3 else (0, 0), p=o.colour)]
    if channels == 3:
        steps.append(A.ToGray(p=o.grey))
    steps += [A.GaussianBlur(blur_limit=0, sigma_limit=o.blur_sigma, p=o.blur), A.GaussNoise((0.0, 0.05), p=o.noise)]
    steps += [A.Erasing(o.erase_area, fill="random_uniform", p=p) for p in o.erase]
    return A.Compose(steps, seed=0)


def _albumentations() -> Any:
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it asks the internet for its version at import
    try:
        import albumentations
    except ImportError:
        raise InputError("views of images need albumentations: pip install 'medkd[detection]'") from None
    return albumentations


def _opencv() -> Any:
    try:
        import cv2
    except ImportError:
        raise InputError("views of images need OpenCV: pip install 'medkd[detection]'") from None
    return cv2


def _float(pixels: np.ndarray) -> np.ndarray:
    return as_float(pixels) if pixels.dtype == np.uint8 else np.asarray(pixels.clip(0, 1), np.float32)
