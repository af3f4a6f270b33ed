"""From images to probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from medkd.data.image_options import ImagePreprocess
from medkd.data.image_preprocess import as_float, prepare_image, read_pixels
from medkd.engine.tensors import at_least_float32
from medkd.errors import InputError


@torch.no_grad()
def probabilities(network: nn.Module, images: Tensor) -> Tensor:
    """(B, K) float32 on the CPU, of preprocessed images (B, C, *S) on the network's device."""
    return at_least_float32(network(images)).softmax(1).cpu()


def read_images(files: Sequence[Path], channels: int, options: ImagePreprocess) -> Tensor:
    """(B, C, *S) in [0, 1]. Raises InputError for an image that cannot be read, or of other channels."""
    images = []
    for file in files:
        pixels, _ = prepare_image(read_pixels(file, canonical=True), options)
        if len(pixels) != channels:
            raise InputError(f"{file.name} has {len(pixels)} channels; the model was trained on {channels}")
        images.append(torch.from_numpy(as_float(pixels)))
    return torch.stack(images)
