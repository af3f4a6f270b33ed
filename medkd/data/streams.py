"""Streams of augmented batches on the training device, one for the labelled and one for the unlabelled cases."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from medkd.data.arrays import TeacherArrays, TrainingArrays
from medkd.data.augment import apply_view, draw_view
from medkd.data.augment_options import AugmentOptions
from medkd.data.sampler import indices
from medkd.data.signals import Signals
from medkd.engine.method import Batch
from medkd.engine.randomness import Draws
from medkd.engine.teachers import TEACHER_IMAGE, TEACHER_LOGITS


@dataclass(frozen=True)
class ArrayStream:
    """Batches from `arrays`: the samples of a step, cropped to `patch` (padded with zeros where smaller), augmented.

    The batch of a step depends on (seed, name, step) alone. cases: the ids of those it reads, or None for all.
    rank, world: prepare only that slice of the batch, the rank-th of `world` equal ones.
    foreground: share of the batch, its last samples, that is centred on a random voxel of a random class present
    (labelled streams; nnU-Net's oversampling).
    teacher: the same samples as a teacher wants them, cut and augmented alike. signals: what a teacher said of them.
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
    teacher: TeacherArrays | None = None
    signals: Signals | None = None

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

        shapes = self.arrays.shape[chosen]
        starts = [self._start(shape, corner[row], forced.get(row)) for row, shape in enumerate(shapes)]

        def cut(samples: Iterable[np.ndarray], channels: Sequence[int], kind: type = np.float16) -> Tensor:
            """(B, C, *patch) on the device: each sample from its start on, zeros where it is smaller."""
            made: np.ndarray = np.zeros((size, len(channels), *self.patch), kind)
            for row, (start, sample) in enumerate(zip(starts, samples)):
                place: tuple[Any, ...] = tuple(slice(s, s + p) for s, p in zip(start, self.patch))
                pixels = sample[(list(channels), *place)]
                made[row][(slice(None), *(slice(0, n) for n in pixels.shape[1:]))] = pixels
            return torch.from_numpy(made).to(self.device, non_blocking=True)

        images = cut(map(self.arrays.image, chosen), range(self.arrays.channels)).float()
        labels = (
            cut((self.arrays.label(s)[None] for s in chosen), [0], np.uint8)[:, 0].long() if self.labelled else None
        )
        view = draw_view(self.augment, draws, self.patch)
        extra: dict[str, Tensor] = {}
        if self.teacher is not None:
            wanted = cut(map(self.teacher.arrays.image, chosen), self.teacher.channels).float()
            extra[TEACHER_IMAGE], _ = apply_view(wanted, None, view)
        names = tuple(self.arrays.cases[self.arrays.case[s]].id for s in chosen)
        if self.signals is not None:
            stored = np.stack([self.signals.logits(*place) for place in zip(names, self.arrays.within(chosen))])
            extra[TEACHER_LOGITS] = torch.from_numpy(stored).to(self.device, non_blocking=True)
        images, labels = apply_view(images, labels, view)
        return Batch(images, labels, names, draws, view | extra)

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
