"""Preprocessed single images as memory-mapped arrays: made once, kept beside the dataset, shared by processes."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from medkd.data.arrays import cache_root
from medkd.data.image_cases import ImageCase
from medkd.data.image_options import ImagePreprocess
from medkd.data.image_preprocess import as_float, prepare_image, read_pixels
from medkd.errors import InputError

FORMAT = 1  # raise it when preprocessing changes: old caches are then built anew


@dataclass(frozen=True)
class ImageArrays:
    """Preprocessed images of some cases. What is true of them is not in here: it stays with the dataset.

    images: (N, C, *S) uint8 or uint16. matrices: (N, D + 1, D + 1) float64, original to network coordinates.
    """

    cases: tuple[ImageCase, ...]
    images: np.ndarray
    matrices: np.ndarray

    def image(self, number: int) -> Tensor:
        """(C, *S) float32 in [0, 1]."""
        return torch.from_numpy(as_float(self.images[number]))

    def matrix(self, number: int) -> Tensor:
        return torch.from_numpy(self.matrices[number])


def image_arrays(
    root: Path,
    cases: Sequence[ImageCase],
    options: ImagePreprocess,
    canonical: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> ImageArrays:
    """The arrays of `cases` of the dataset at `root`, from the cache beside it if they are there. Opens images only.

    canonical: volumes with their axes turned to RAS+ (`read_pixels`).
    """
    if not cases:
        raise InputError(f"{root} has no case of the kind that is needed here")
    stamps = [[c.id, c.image.stat().st_size, c.image.stat().st_mtime_ns] for c in cases]
    content = json.dumps([FORMAT, canonical, options.model_dump(mode="json"), stamps])
    folder = cache_root(root) / f"images-{hashlib.sha256(content.encode()).hexdigest()[:20]}"
    if not folder.is_dir():
        _build(cases, options, canonical, folder, progress)
    images = np.load(folder / "images.npy", mmap_mode="r", allow_pickle=False)
    return ImageArrays(tuple(cases), images, np.load(folder / "matrices.npy", allow_pickle=False))


def _build(
    cases: Sequence[ImageCase],
    options: ImagePreprocess,
    canonical: bool,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    found, matrices = [], []
    for number, case in enumerate(cases, 1):
        pixels, matrix = prepare_image(read_pixels(case.image, canonical), options)
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
