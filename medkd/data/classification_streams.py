"""Streams of augmented images, each with its class: a batch is a pure function of the step, as in streams.py."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from medkd.data.augment import apply_view, draw_view
from medkd.data.augment_options import AugmentOptions
from medkd.data.classification_dataset import ClassificationDataset
from medkd.data.image_arrays import ImageArrays
from medkd.data.sampler import indices
from medkd.data.signals import Signals
from medkd.engine.method import Batch
from medkd.engine.randomness import Draws
from medkd.engine.teachers import TEACHER_IMAGE, TEACHER_LOGITS


@dataclass(frozen=True)
class ClassificationStream:
    """`image` (B, C, *S) in [0, 1], augmented; `label` (B,) int64.

    truth: the dataset that knows the classes; None for a stream without labels. size: samples of a batch over all
    ranks, of which this is the rank-th of `world` equal slices. teacher, teacher_channels: the same images as a teacher
    wants them, augmented alike. signals: what a teacher said of them.
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
    teacher: ImageArrays | None = None
    teacher_channels: tuple[int, ...] = ()
    signals: Signals | None = None

    def batch(self, global_step: int) -> Batch:
        size = self.size // self.world
        first = self.rank * size
        draws = Draws((self.seed, global_step, self.name), size, first, self.size)
        cases = self.arrays.cases
        chosen = indices(self.seed, self.name, len(cases), self.size, global_step)[first : first + size]
        images = self._pixels(self.arrays, chosen)
        view = draw_view(self.augment, draws, tuple(images.shape[2:]))
        images, _ = apply_view(images, None, view)
        names = tuple(cases[number].id for number in chosen)
        extra: dict[str, Tensor] = {}
        if self.teacher is not None:
            theirs = self._pixels(self.teacher, chosen)[:, list(self.teacher_channels)]
            extra[TEACHER_IMAGE], _ = apply_view(theirs, None, view)
        if self.signals is not None:
            stored = np.stack([self.signals.logits(name, 0) for name in names])
            extra[TEACHER_LOGITS] = torch.from_numpy(stored).to(self.device, non_blocking=True)
        label = None
        if self.truth is not None:
            label = torch.tensor([self.truth.truth(cases[number]) for number in chosen], device=self.device)
        return Batch(images, label, names, draws, view | extra)

    def case_classes(self) -> dict[str, int]:
        """The class of every image of the stream, by its id."""
        assert self.truth is not None
        return {case.id: self.truth.truth(case) for case in self.arrays.cases}

    def _pixels(self, arrays: ImageArrays, chosen: np.ndarray) -> Tensor:
        """(B, C, *S) in [0, 1] on the device; on the way there as stored, a quarter or half of the bytes."""
        stored = arrays.images[chosen]
        pixels = torch.from_numpy(stored.astype(np.int32) if stored.dtype == np.uint16 else stored)
        return pixels.to(self.device, non_blocking=True).float() / np.iinfo(stored.dtype).max
