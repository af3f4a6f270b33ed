"""Generated blood smears in the layout of the real ones: pale pink discs, and a large one with a violet nucleus."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 96
PINK, VIOLET, PAPER = (214, 160, 170), (90, 60, 160), (240, 236, 232)


def write_smears(root: Path) -> Path:
    """root/bccd and root/raabin, the second darker and pinker; 6 images to train, 2 to validate, 2 to test."""
    for number, (domain, tint) in enumerate((("bccd", (1.0, 1.0, 1.0)), ("raabin", (0.9, 0.75, 0.8)))):
        (root / domain / "images").mkdir(parents=True)
        rng = np.random.default_rng(number)
        rows = []
        for split, count in (("train", 6), ("val", 2), ("test", 2)):
            for image in range(count):
                name = f"{domain}_{split}{image}.png"
                pixels, boxes = smear(rng)
                Image.fromarray((pixels * np.array(tint)).astype(np.uint8)).save(root / domain / "images" / name)
                rows += [[name, split, SIDE, SIDE, label, *box] for label, box in boxes]
        with (root / domain / "annotations.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["image", "split", "width", "height", "label", "xmin", "ymin", "xmax", "ymax"])
            writer.writerows(rows)
    return root


def smear(rng: np.random.Generator, white: bool = True) -> tuple[np.ndarray, list[tuple[str, list[int]]]]:
    """Four red cells in the corners of one half, a white cell or a platelet in the other."""
    pixels = np.full((SIDE, SIDE, 3), PAPER, np.float64)
    boxes = []
    for x, y in ((2, 2), (24, 4), (4, 46), (25, 70)):
        boxes.append(("RBC", _disc(pixels, x, y, int(rng.integers(16, 20)), PINK)))
    x, y = (int(v) for v in rng.integers(48, 60, 2))
    if white:
        side = int(rng.integers(26, 32))
        boxes.append(("WBC", _disc(pixels, x, y, side, (225, 205, 225))))
        _disc(pixels, x + side // 6, y + side // 6, 2 * side // 3, VIOLET)
    boxes.append(("Platelet", _disc(pixels, 60, 8, 5, VIOLET)))
    return pixels.astype(np.uint8), boxes


def _disc(pixels: np.ndarray, x: int, y: int, side: int, colour: tuple[int, ...]) -> list[int]:
    rows, columns = np.mgrid[:SIDE, :SIDE]
    inside = (columns + 0.5 - x - side / 2) ** 2 + (rows + 0.5 - y - side / 2) ** 2 <= (side / 2) ** 2
    pixels[inside] = colour
    return [x, y, x + side, y + side]
