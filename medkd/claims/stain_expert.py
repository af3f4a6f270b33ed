"""A classical expert for stained blood smears: finds white cells by the colour of their nuclei, without any learning.

Azure dyes take red out of the light, eosin takes green. So the optical density of red, in units of what red cells take
out of the green of the SAME image, tells nuclei (above 1) from red cells (well below 1), whatever the illumination, the
gamma or the strength of the stain. Dark parts that lie close are one nucleus; a large one is a cell, whose box is
grown by the cytoplasm around it. Platelets are too small for it, red cells too pale: it speaks of white cells alone.

The constants are the best F1 on bccd's training images of the few that `benchmarks/stain_expert.py` tries; no other
image was looked at. A function of an image alone, so it cannot have seen the target's labels.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from medkd.data.targets import Detections
from medkd.detection.experts import mask_boxes

SIDE = 160  # pixels of the longer side, at which it looks
WHITE = 95  # percentile of each channel that is empty background
LEAST, BRIDGE, LEAST_AREA, GROWN = 0.9, 6, 0.014, 0.17
"""Density of a nucleus; pixels over which its lobes are joined; its area, in squares of SIDE; how far the cell reaches
beyond it, in sides of its box."""


def white_cells(
    image: NDArray[Any],
    label: int = 1,
    least: float = LEAST,
    bridge: int = BRIDGE,
    area: float = LEAST_AREA,
    grown: float = GROWN,
) -> Detections:
    """White cells in an image (H, W, 3) uint8, boxes in its pixels, scores 1."""
    height, width = image.shape[:2]
    scale = SIDE / max(height, width)
    small = Image.fromarray(image).resize((round(width * scale), round(height * scale)), Image.Resampling.BOX)
    nucleus = ndimage.gaussian_filter(density(np.asarray(small) / 255.0), 1) > least
    joined = ndimage.binary_closing(np.pad(nucleus, bridge), np.ones((3, 3)), iterations=bridge)
    kept = joined[bridge:-bridge, bridge:-bridge]
    found = mask_boxes(kept.astype(float), label, least_pixels=round(area * SIDE**2))
    low, high = found.boxes[:, :2], found.boxes[:, 2:]
    reach = grown * (high - low).prod(1, keepdim=True).sqrt()
    boxes = torch.cat([low - reach, high + reach], 1) / scale
    limits = torch.tensor([width, height, width, height], dtype=boxes.dtype)
    return Detections(torch.minimum(boxes.clamp(min=0), limits), found.labels, found.scores)


def density(pixels: NDArray[Any]) -> NDArray[Any]:
    """(H, W): optical density of red over the median one of green among what is not background, of (H, W, 3) in [0, 1].

    >>> white, red_cell, nucleus = [1.0, 1.0, 1.0], [0.8, 0.5, 0.6], [0.3, 0.2, 0.6]
    >>> [round(v, 1) for v in density(np.array([[white] * 5 + [red_cell] * 4 + [nucleus]]))[0, -2:].tolist()]
    [0.3, 1.7]
    """
    white = np.percentile(pixels.reshape(-1, 3), WHITE, axis=0)
    if not white.all():
        return np.zeros(pixels.shape[:2])  # no light in a channel
    passed = np.clip(pixels / white, 1 / 255, 1.0)
    taken, green = -np.log(passed), passed[..., 1]
    foreground = taken[..., 1][green < _paper(green)]
    if not len(foreground):
        return np.zeros(green.shape)
    return np.asarray(taken[..., 0] / max(float(np.median(foreground)), 1e-6))


def _paper(light: NDArray[Any], bins: int = 64) -> float:
    """The light above which there is background: the upper of the two thresholds between three groups (paper, red
    cells, nuclei) with the largest variance between them (Otsu's). Two groups would often be nuclei and all else."""
    counts, edges = np.histogram(light, bins, (0.0, 1.0))
    weight, moment = counts.cumsum(), (counts * (edges[:-1] + edges[1:]) / 2).cumsum()

    def part(w: NDArray[Any], m: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(m**2 / np.maximum(w, 1e-9))

    low, high = part(weight, moment)[:, None], part(weight[-1] - weight, moment[-1] - moment)[None]
    middle = part(weight[None] - weight[:, None], moment[None] - moment[:, None])
    between = np.where(np.arange(bins)[:, None] < np.arange(bins)[None], low + middle + high, -1.0)
    return float(edges[np.unravel_index(between.argmax(), between.shape)[1] + 1])
