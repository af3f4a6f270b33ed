"""Streams of augmented batches on the training device, one for the labelled and one for the unlabelled cases."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from medkd.data.arrays import TrainingArrays
from medkd.data.augment import apply_view, draw_view
from medkd.data.augment_options import AugmentOptions
from medkd.data.sampler import indices
from medkd.engine.method import Batch
from medkd.engine.randomness import Draws


@dataclass(frozen=True)
class ArrayStream:
    """Batches from `arrays`: the samples of a step, cropped to `patch` (padded with zeros where smaller), augmented.

    The batch of a step depends on (seed, name, step) alone. cases: the ids of those it reads, or None for all.
    rank, world: prepare only that slice of the batch, the rank-th of `world` equal ones.
    foreground: share of the batch, its last samples, that is centred on a random voxel of a random class present
    (labelled streams; nnU-Net's oversampling).
    """

    arrays: TrainingArrays
    name: str
    labelled: bool
    size: int
    patch: tuple[int, ...]
    augment: AugmentOptions
    seed: int
    device: torch.device
    foreground: float = 0.0
    cases: frozenset[str] | None = None
    rank: int = 0
    world: int = 1

    def batch(self, global_step: int) -> Batch:
        size = self.size // self.world
        first = self.rank * size
        draws = Draws((self.seed, global_step, self.name), size, first, self.size)
        pool = self._pool()
        chosen = pool[indices(self.seed, self.name, len(pool), self.size, global_step)[first : first + size]]
        corner = draws.uniform("crop", len(self.patch)).numpy()
        forced = {}
        for row in range(max(0, round(self.size * (1 - self.foreground)) - first), size):
            chosen[row], forced[row] = self._foreground_sample(pool, draws, row, int(chosen[row]))

        image = np.zeros((size, self.arrays.channels, *self.patch), np.float16)
        label = np.zeros((size, *self.patch), np.uint8)
        for row, sample in enumerate(chosen):
            shape = self.arrays.shape[sample]
            start = self._start(shape, corner[row], forced.get(row))
            source = tuple(slice(s, s + p) for s, p in zip(start, self.patch))
            pixels = self.arrays.image(sample)[(slice(None), *source)]
            target = tuple(slice(0, n) for n in pixels.shape[1:])
            image[row][(slice(None), *target)] = pixels
            if self.labelled:
                label[row][target] = self.arrays.label(sample)[source]

        images = torch.from_numpy(image).to(self.device, non_blocking=True).float()
        labels = torch.from_numpy(label).to(self.device, non_blocking=True).long() if self.labelled else None
        view = draw_view(self.augment, draws, self.patch)
        images, labels = apply_view(images, labels, view)
        names = tuple(self.arrays.cases[self.arrays.case[s]].id for s in chosen)
        return Batch(images, labels, names, draws, view)

    def _pool(self) -> np.ndarray:
        """The samples the stream draws from."""
        pool = self.arrays.samples(self.labelled)
        if self.cases is None:
            return pool
        wanted = np.array([case.id in self.cases for case in self.arrays.cases], dtype=bool)
        return pool[wanted[self.arrays.case[pool]]]

    def _start(self, shape: np.ndarray, corner: np.ndarray, centre: np.ndarray | None) -> np.ndarray:
        room = np.maximum(shape - np.array(self.patch), 0)
        if centre is None:
            return np.minimum((corner * (room + 1)).astype(int), room)
        return np.clip(centre - np.array(self.patch) // 2, 0, room)

    def _foreground_sample(
        self, pool: np.ndarray, draws: Draws, row: int, fallback: int
    ) -> tuple[int, np.ndarray | None]:
        """A sample that contains a random foreground class, and one of its voxels."""
        rng = np.random.default_rng(int(draws.integers("foreground", 2**31)[row]))
        present = self.arrays.present[pool]
        classes = 1 + np.flatnonzero(present[:, 1:].any(0))
        if not len(classes):
            return fallback, None
        wanted = rng.choice(classes)
        sample = int(rng.choice(pool[present[:, wanted]]))
        voxels = np.argwhere(self.arrays.label(sample) == wanted)
        return sample, voxels[rng.integers(len(voxels))]
