"""Streams of weak and strong views with their boxes: a batch is a pure function of the step, as in streams.py."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from medkd.data.arrays import cache_root
from medkd.data.augment2d import views
from medkd.data.augment_volumes import volume_views
from medkd.data.box_geometry import clip_boxes, map_boxes
from medkd.data.detection_dataset import DetectionCase, DetectionDataset
from medkd.data.detection_options import DetectionAugment, DetectionPreprocess
from medkd.data.detection_preprocess import as_float, prepare_image, read_pixels
from medkd.data.sampler import indices
from medkd.data.targets import Target
from medkd.engine.method import Batch
from medkd.engine.randomness import Draws
from medkd.errors import InputError

FORMAT = 1  # raise it when preprocessing changes: old caches are then built anew


@dataclass(frozen=True)
class DetectionArrays:
    """Preprocessed images of some cases, memory-mapped. Boxes are not in here: they stay with the dataset.

    images: (N, C, *S) uint8 or uint16. matrices: (N, D + 1, D + 1) float64, original to network coordinates.
    """

    cases: tuple[DetectionCase, ...]
    images: np.ndarray
    matrices: np.ndarray

    def image(self, number: int) -> Tensor:
        """(C, *S) float32 in [0, 1]."""
        return torch.from_numpy(as_float(self.images[number]))

    def matrix(self, number: int) -> Tensor:
        return torch.from_numpy(self.matrices[number])


def detection_arrays(
    dataset: DetectionDataset,
    cases: Sequence[DetectionCase],
    options: DetectionPreprocess,
    progress: Callable[[int, int], None] | None = None,
) -> DetectionArrays:
    """The arrays of `cases`, from the cache beside the dataset if they are there. Opens images only, never boxes."""
    if not cases:
        raise InputError(f"{dataset.root} has no case of the kind that is needed here")
    stamps = [[c.id, c.image.stat().st_size, c.image.stat().st_mtime_ns] for c in cases]
    content = json.dumps([FORMAT, options.model_dump(mode="json"), stamps])
    folder = cache_root(dataset.root) / f"detection-{hashlib.sha256(content.encode()).hexdigest()[:20]}"
    if not folder.is_dir():
        _build(cases, options, folder, progress)
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return DetectionArrays(tuple(cases), images, np.load(folder / "matrices.npy", allow_pickle=False))


def _build(
    cases: Sequence[DetectionCase],
    options: DetectionPreprocess,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    found, matrices = [], []
    for number, case in enumerate(cases, 1):
        pixels, matrix = prepare_image(read_pixels(case.image), options)
        found.append(pixels)
        matrices.append(matrix.numpy())
        if progress:
            progress(number, len(cases))
    if len({pixels.dtype for pixels in found}) > 1:  # 8- and 16-bit files: 257 maps the one range onto the other
        found = [p if p.dtype == np.uint16 else p.astype(np.uint16) * np.uint16(257) for p in found]
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix="building-"))
    np.save(building / "images.npy", np.stack(found), allow_pickle=False)
    np.save(building / "matrices.npy", np.stack(matrices), allow_pickle=False)
    try:
        building.rename(folder)
    except OSError:  # another process was faster: its arrays are the same
        shutil.rmtree(building)


@dataclass(frozen=True)
class DetectionStream:
    """Batches of views: `image` (B, C, *S) is the weak view in [0, 1]; `view["strong"]` the strong one of the same
    place; `view["matrix"]` (B, D + 1, D + 1) float64 maps original coordinates to both views.

    truth: the dataset whose boxes become `label`, a tuple of B Targets in the coordinates of the views; None for a
    stream without labels, which then has no way to any box. size: samples of a batch over all ranks.
    """

    arrays: DetectionArrays
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
