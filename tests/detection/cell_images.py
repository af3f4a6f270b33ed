"""A generated detection dataset: bright discs (round) and squares on dark pictures of 80 x 100 pixels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from medkd.data.detection_dataset import (
    Boxes,
    DetectionDataset,
    read_detection_dataset,
    write_detection_dataset,
)
from medkd.data.image_cases import ImageCase

CLASSES = ("round", "square")


def write_cells(root: Path, train: int = 6, val: int = 2, test: int = 2, labelled: bool = True) -> DetectionDataset:
    """labelled: whether the training cases are; the boxes of those that are not are hidden ones."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    cases, boxes, hidden = [], {}, {}
    for split, count in (("train", train), ("val", val), ("test", test)):
        for number in range(count):
            name = f"{split}{number}"
            pixels, found = picture(rng)
            path = root / "images" / f"{name}.png"
            Image.fromarray(pixels).save(path)
            known = labelled or split != "train"
            cases.append(ImageCase(name, name, split, known, path, None, (80, 100)))
            (boxes if known else hidden)[name] = found
    made = DetectionDataset(root, ("red", "green", "blue"), CLASSES, "image", tuple(cases), boxes)
    write_detection_dataset(made, {"licence": "generated"}, hidden)
    return read_detection_dataset(root)


def picture(rng: np.random.Generator) -> tuple[np.ndarray, Boxes]:
    """One disc on the left and one square on the right, at random places."""
    pixels = rng.integers(0, 60, (80, 100, 3), dtype=np.uint8)
    y, x = np.mgrid[:80, :100]
    found = []
    for label, low in enumerate((2, 52)):
        side = int(rng.integers(20, 34))
        left, top = int(rng.integers(low, low + 46 - side)), int(rng.integers(2, 78 - side))
        inside = (x >= left) & (x < left + side) & (y >= top) & (y < top + side)
        if label == 0:
            inside = (x + 0.5 - left - side / 2) ** 2 + (y + 0.5 - top - side / 2) ** 2 <= (side / 2) ** 2
        pixels[inside] = (200, 120, 220) if label == 0 else (120, 220, 120)
        found.append([left, top, left + side, top + side])
    return pixels, Boxes(np.array(found, np.float32), np.array([0, 1]))
