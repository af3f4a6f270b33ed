"""A generated dataset for classification: bright discs and squares on dark pictures, or balls and cubes in volumes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from medkd.data.classification_dataset import (
    ClassificationDataset,
    read_classification_dataset,
    write_classification_dataset,
)
from medkd.data.image_cases import ImageCase
from medkd.data.image_files import png_bytes
from medkd.imaging.nifti import write_nifti

CLASSES = ("round", "square")


def write_shapes(root: Path, dims: int = 2, train: int = 24, unlabelled: int = 4) -> ClassificationDataset:
    """Two images a patient; the last `unlabelled` training images have no label."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    cases, labels = [], {}
    for split, count in (("train", train), ("val", 8), ("test", 12)):
        for number in range(count):
            name, label = f"{split}{number}", number % 2
            path = root / "images" / f"{name}{'.png' if dims == 2 else '.nii.gz'}"
            pixels = shape(rng, label, dims)
            if dims == 2:
                path.write_bytes(png_bytes(pixels))
            else:
                write_nifti(path, pixels.astype(np.int16), np.eye(4))
            labelled = split != "train" or number < train - unlabelled
            spacing = None if dims == 2 else (1.0, 1.0, 1.0)
            cases.append(ImageCase(name, f"{split}p{number // 2}", split, labelled, path, spacing, pixels.shape))
            if labelled:
                labels[name] = label
    made = ClassificationDataset(root, ("image",), CLASSES, "patient", tuple(cases), labels)
    write_classification_dataset(made, {"licence": "generated"})
    return read_classification_dataset(root)


def shape(rng: np.random.Generator, label: int, dims: int) -> np.ndarray:
    """20 pixels a side; a disc (0) or a square (1) of 10 to 14."""
    pixels = rng.integers(0, 60, [20] * dims).astype(np.uint8)
    side = int(rng.integers(10, 15))
    corner = rng.integers(1, 19 - side, dims)
    grid = np.stack(np.meshgrid(*[np.arange(20)] * dims, indexing="ij"), -1) - corner
    inside = ((grid >= 0) & (grid < side)).all(-1)
    if label == 0:
        inside = ((grid + 0.5 - side / 2) ** 2).sum(-1) <= (side / 2) ** 2 * 0.6
    pixels[inside] = 200
    return pixels
