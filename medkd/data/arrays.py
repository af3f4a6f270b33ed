"""The training set as compact memory-mapped arrays: preprocessed once, kept beside the dataset, shared by processes.

One sample is a slice (2-D) or a volume (3-D). Images are float16, labels uint8, concatenated flat, because samples may
differ in size; `samples.npz` holds each sample's case, offset and shape.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medkd.data.dataset import Case, Dataset
from medkd.data.options import Preprocess
from medkd.data.preprocess import prepare_label, prepare_scan
from medkd.imaging.nifti import read_nifti

FORMAT = 1  # raise it when preprocessing changes: old caches are then built anew


@dataclass(frozen=True)
class TrainingArrays:
    """Samples of the training cases. `labels` holds only the cases marked labelled; elsewhere zeros that nobody reads.

    case: (N,) index into `cases`. offset: (N,) first pixel. shape: (N, dims). present: (N, K) which classes a labelled
    sample contains.
    """

    cases: tuple[Case, ...]
    channels: int
    images: np.ndarray
    labels: np.ndarray
    case: np.ndarray
    offset: np.ndarray
    shape: np.ndarray
    present: np.ndarray

    def samples(self, labelled: bool) -> np.ndarray:
        """The sample numbers of the labelled (or of the unlabelled) cases."""
        chosen = np.array([c.labelled for c in self.cases], dtype=bool)[self.case]
        return np.flatnonzero(chosen == labelled)

    def image(self, sample: int) -> np.ndarray:
        """(C, *S) float16."""
        shape = tuple(self.shape[sample])
        start, pixels = int(self.offset[sample]), int(np.prod(shape))
        return self.images[start * self.channels : (start + pixels) * self.channels].reshape(self.channels, *shape)

    def label(self, sample: int) -> np.ndarray:
        """(*S) uint8."""
        shape = tuple(self.shape[sample])
        start = int(self.offset[sample])
        return self.labels[start : start + int(np.prod(shape))].reshape(shape)

    def within(self, samples: np.ndarray) -> np.ndarray:
        """The number of each sample within its case: the slice of a scan."""
        return samples - np.searchsorted(self.case, self.case[samples])


@dataclass(frozen=True)
class TeacherArrays:
    """The same samples as another model wants them: its intensities, and those channels that it knows."""

    arrays: TrainingArrays
    channels: tuple[int, ...]


def training_arrays(
    dataset: Dataset, options: Preprocess, progress: Callable[[int, int], None] | None = None
) -> TrainingArrays:
    """The arrays of the dataset's training cases, from the cache if they are there."""
    cases = dataset.select("train")
    folder = cache_root(dataset.root) / _key(dataset, cases, options)
    if not (folder / "samples.npz").exists():
        _build(dataset, cases, options, folder, progress)
    table = np.load(folder / "samples.npz", allow_pickle=False)
    return TrainingArrays(
        cases,
        len(dataset.channels),
        np.memmap(folder / "images.f16", np.float16, "r"),
        np.memmap(folder / "labels.u8", np.uint8, "r"),
        *(table[name] for name in ("case", "offset", "shape", "present")),
    )


def _build(
    dataset: Dataset,
    cases: tuple[Case, ...],
    options: Preprocess,
    folder: Path,
    progress: Callable[[int, int], None] | None,
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(dir=folder.parent, prefix="building-"))
    rows: dict[str, list[object]] = {"case": [], "offset": [], "shape": [], "present": []}
    pixels = 0
    with (building / "images.f16").open("wb") as images, (building / "labels.u8").open("wb") as labels:
        for number, case in enumerate(cases):
            image = prepare_scan([read_nifti(path) for path in case.images], options)[0]
            label = torch.zeros(image.shape[0], *image.shape[2:], dtype=torch.uint8)
            if case.labelled and case.label:
                label = prepare_label(read_nifti(case.label), options)
            images.write(image.half().numpy().tobytes())
            labels.write(label.numpy().tobytes())
            for sample in label:
                rows["case"].append(number)
                rows["offset"].append(pixels)
                rows["shape"].append(sample.shape)
                rows["present"].append([bool((sample == k).any()) for k in range(len(dataset.classes))])
                pixels += sample.numel()
            if progress:
                progress(number + 1, len(cases))
    table = {name: np.array(values) for name, values in rows.items()}
    np.savez(building / "samples.npz", allow_pickle=False, **table)
    try:
        building.rename(folder)
    except OSError:  # another process was faster: its arrays are the same
        shutil.rmtree(building)


def cache_root(root: Path) -> Path:
    """Beside the dataset, so that every run shares it; in the user's cache where the dataset is read-only."""
    if os.access(root, os.W_OK):
        return root / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "medkd"


def _key(dataset: Dataset, cases: tuple[Case, ...], options: Preprocess) -> str:
    def stamp(path: Path | None) -> object:
        return (str(path.relative_to(dataset.root)), path.stat().st_size, path.stat().st_mtime_ns) if path else None

    files = [[*map(stamp, c.images), stamp(c.label) if c.labelled else None] for c in cases]
    content = [FORMAT, options.model_dump(mode="json"), dataset.fingerprint, files]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:20]
