"""From stored images to detections in their own coordinates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from medkd.data.box_geometry import clip_boxes, unmap_boxes
from medkd.data.image_options import ImagePreprocess
from medkd.data.image_preprocess import as_float, prepare_image, read_pixels
from medkd.data.targets import Detections
from medkd.detection.detectors.protocol import Detector
from medkd.errors import InputError


def detections(
    network: nn.Module, images: Tensor, matrices: Sequence[Tensor], shapes: Sequence[tuple[int, ...]], threshold: float
) -> list[Detections]:
    """Of preprocessed images (B, C, *S), in the coordinates of the originals (`shapes`: (H, W) or (X, Y, Z)); CPU."""
    found = cast(Detector, network).predict(images, threshold)
    return [original(one.to("cpu"), matrix, shape) for one, matrix, shape in zip(found, matrices, shapes)]


def original(found: Detections, matrix: Tensor, shape: tuple[int, ...]) -> Detections:
    """Detections of a view, in the coordinates of the image it was made of; what lies outside of that is cut off."""
    boxes, kept = clip_boxes(unmap_boxes(found.boxes, matrix), shape)
    probabilities = None if found.probabilities is None else found.probabilities[kept]
    return Detections(boxes[kept], found.labels[kept], found.scores[kept], probabilities)


def detect_file(
    network: nn.Module, path: Path, channels: int, options: ImagePreprocess, device: torch.device, threshold: float
) -> tuple[Detections, np.ndarray]:
    """Detections of one image file and its pixels as stored. Raises InputError for an image of other channels."""
    stored = read_pixels(path)
    pixels, matrix = prepare_image(stored, options)
    if len(pixels) != channels:
        raise InputError(f"{path.name} has {len(pixels)} channels; the model was trained on {channels}")
    image = torch.from_numpy(as_float(pixels))[None].to(device)
    shape = tuple(stored.shape[: options.dims])
    return detections(network, image, [matrix], [shape], threshold)[0], stored


def batches(count: int, size: int) -> Iterator[range]:
    """0 .. count - 1 in runs of at most `size`."""
    for first in range(0, count, size):
        yield range(first, min(first + size, count))
