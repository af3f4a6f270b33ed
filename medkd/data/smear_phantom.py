"""A generated blood smear with three classes, two of them rare and easily confused; the target has another stain.

Red cells are pale discs. White cells have a dark nucleus: in two or three lobes (neutrophil), or round (lymphocyte, the
rarest). The target domain has another tint, a gamma and a soft focus: what another laboratory changes.
"""

from __future__ import annotations

import numpy as np
from scipy import ndimage

SMEAR = ("red cell", "neutrophil", "lymphocyte")
GROUND, CELL, WHITE, NUCLEUS = (
    np.array(colour) for colour in ([0.93, 0.88, 0.9], [0.87, 0.6, 0.62], [0.8, 0.74, 0.86], [0.42, 0.22, 0.55])
)
TINT = np.array([[0.92, 0.02, 0.06], [0.1, 0.72, 0.18], [0.0, 0.3, 0.62]])  # of the target's stain


def smear(
    rng: np.random.Generator, shifted: bool, size: tuple[int, int] = (96, 128)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """uint8 (H, W, 3), boxes (N, 4) and labels (N,) in the order of SMEAR. No two cells overlap."""
    height, width = size
    y, x = np.mgrid[:height, :width] + 0.5
    image = np.broadcast_to(GROUND, (height, width, 3)) + 0.03 * rng.normal(size=(height, width, 1))
    boxes: list[list[float]] = []
    labels: list[int] = []
    for _ in range(60):
        label = int(rng.choice(3, p=[0.86, 0.1, 0.04]))
        radius = rng.uniform(6, 8) if label == 0 else rng.uniform(9, 12) if label == 1 else rng.uniform(8, 11)
        cx, cy = rng.uniform(radius, width - radius), rng.uniform(radius, height - radius)
        apart = [np.hypot((b[0] + b[2]) / 2 - cx, (b[1] + b[3]) / 2 - cy) - (b[2] - b[0]) / 2 - radius for b in boxes]
        if min(apart, default=1.0) < 0.5 or len(boxes) == 14:
            continue
        body = _disc(x, y, cx, cy, radius)
        if label == 0:
            image = _painted(image, CELL, body * (1 - 0.6 * _disc(x, y, cx, cy, 0.4 * radius)))
        else:
            image = _painted(_painted(image, WHITE, body), NUCLEUS, _nucleus(rng, x, y, cx, cy, radius, label))
        boxes.append([cx - radius, cy - radius, cx + radius, cy + radius])
        labels.append(label)
    if shifted:
        image = ndimage.gaussian_filter(image.clip(0, 1), (0.9, 0.9, 0)) ** 1.5 @ TINT.T
    image = image + 0.02 * rng.normal(size=image.shape)
    pixels = (image.clip(0, 1) * 255).round().astype(np.uint8)
    return pixels, np.array(boxes).reshape(-1, 4).round(2), np.array(labels, int)


def _nucleus(
    rng: np.random.Generator, x: np.ndarray, y: np.ndarray, cx: float, cy: float, radius: float, label: int
) -> np.ndarray:
    if label == 2:
        return 0.9 * _disc(x, y, cx, cy, 0.72 * radius)
    turn, lobes = rng.uniform(0, 2 * np.pi), int(rng.integers(2, 4))
    angles = turn + np.arange(lobes) * 2 * np.pi / lobes
    discs = [_disc(x, y, cx + 0.42 * radius * np.cos(a), cy + 0.42 * radius * np.sin(a), 0.36 * radius) for a in angles]
    return np.asarray(0.9 * np.max(discs, 0))


def _disc(x: np.ndarray, y: np.ndarray, cx: float, cy: float, radius: float) -> np.ndarray:
    """1 inside, 0 outside, soft over a pixel."""
    return np.asarray((radius - np.hypot(x - cx, y - cy) + 0.5).clip(0, 1))


def _painted(image: np.ndarray, colour: np.ndarray, share: np.ndarray) -> np.ndarray:
    return np.asarray(image + share[..., None] * (colour - image))
