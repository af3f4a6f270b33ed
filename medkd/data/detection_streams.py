"""Streams of weak and strong views with their boxes: a batch is a pure function of the step, as in streams.py."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from medkd.data.augment2d import views
from medkd.data.augment_volumes import volume_views
from medkd.data.box_geometry import clip_boxes, map_boxes
from medkd.data.detection_dataset import DetectionDataset
from medkd.data.detection_options import DetectionAugment
from medkd.data.image_arrays import ImageArrays
from medkd.data.sampler import indices
from medkd.data.targets import Target
from medkd.engine.method import Batch
from medkd.engine.randomness import Draws


@dataclass(frozen=True)
class DetectionStream:
    """Batches of views: `image` (B, C, *S) is the weak view in [0, 1]; `view["strong"]` the strong one of the same
    place; `view["matrix"]` (B, D + 1, D + 1) float64 maps original coordinates to both views.

    truth: the dataset whose boxes become `label`, a tuple of B Targets in the coordinates of the views; None for a
    stream without labels, which then has no way to any box. size: samples of a batch over all ranks.
    """

    arrays: ImageArrays
    name: str
    size: int
    augment: DetectionAugment
    seed: int
    device: torch.device
    truth: DetectionDataset | None = None
    rank: int = 0
    world: int = 1

    def batch(self, global_step: int) -> Batch:
        size = self.size // self.world
        first = self.rank * size
        draws = Draws((self.seed, global_step, self.name), size, first, self.size)
        chosen = indices(self.seed, self.name, len(self.arrays.cases), self.size, global_step)[first : first + size]
        seeds = draws.integers("view", 2**31).tolist()
        weak, strong, matrices, targets = [], [], [], []
        for number, seed in zip(chosen, seeds):
            pixels = np.asarray(self.arrays.images[number])
            if pixels.ndim == 3:
                view = views(np.ascontiguousarray(pixels.transpose(1, 2, 0)), seed, self.augment)
                pair = [torch.from_numpy(v).movedim(-1, 0) for v in (view.weak, view.strong)]
            else:
                view = volume_views(pixels[0], seed, self.augment)
                pair = [torch.from_numpy(v)[None] for v in (view.weak, view.strong)]
            weak.append(pair[0])
            strong.append(pair[1])
            matrices.append(view.matrix @ self.arrays.matrix(number))
            if self.truth is not None:
                targets.append(self._target(self.truth, int(number), matrices[-1]))
        stacked = [torch.stack(parts).to(self.device) for parts in (weak, strong, matrices)]
        names = tuple(self.arrays.cases[number].id for number in chosen)
        label = None if self.truth is None else tuple(targets)
        return Batch(stacked[0], cast(Any, label), names, draws, {"strong": stacked[1], "matrix": stacked[2]})

    def _target(self, dataset: DetectionDataset, number: int, matrix: Tensor) -> Target:
        """The boxes of a case in the coordinates of its view, cut at its border."""
        truth = dataset.truth(self.arrays.cases[number])
        mapped = map_boxes(torch.from_numpy(truth.boxes), matrix)
        boxes, kept = clip_boxes(mapped, self.arrays.images.shape[2:], self.augment.min_visible)
        return Target(boxes[kept], torch.from_numpy(truth.labels)[kept]).to(self.device)
