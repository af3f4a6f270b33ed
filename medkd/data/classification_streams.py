"""Streams of augmented images, each with its class: a batch is a pure function of the step, as in streams.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from medkd.data.augment import apply_view, draw_view
from medkd.data.augment_options import AugmentOptions
from medkd.data.classification_dataset import ClassificationDataset
from medkd.data.image_arrays import ImageArrays
from medkd.data.sampler import indices
from medkd.engine.method import Batch
from medkd.engine.randomness import Draws


@dataclass(frozen=True)
class ClassificationStream:
    """`image` (B, C, *S) in [0, 1], augmented; `label` (B,) int64.

    truth: the dataset that knows the classes; None for a stream without labels. size: samples of a batch over all
    ranks, of which this is the rank-th of `world` equal slices.
    """

    arrays: ImageArrays
    name: str
    size: int
    augment: AugmentOptions
    seed: int
    device: torch.device
    truth: ClassificationDataset | None = None
    rank: int = 0
    world: int = 1

    def batch(self, global_step: int) -> Batch:
        size = self.size // self.world
        first = self.rank * size
        draws = Draws((self.seed, global_step, self.name), size, first, self.size)
        cases = self.arrays.cases
        chosen = indices(self.seed, self.name, len(cases), self.size, global_step)[first : first + size]
        stored = self.arrays.images[chosen]  # as stored, on the way to the device: a quarter or half of the bytes
        pixels = torch.from_numpy(stored.astype(np.int32) if stored.dtype == np.uint16 else stored)
        images = pixels.to(self.device, non_blocking=True).float() / np.iinfo(stored.dtype).max
        view = draw_view(self.augment, draws, tuple(images.shape[2:]))
        images, _ = apply_view(images, None, view)
        label = None
        if self.truth is not None:
            label = torch.tensor([self.truth.truth(cases[number]) for number in chosen], device=self.device)
        return Batch(images, label, tuple(cases[number].id for number in chosen), draws, view)
