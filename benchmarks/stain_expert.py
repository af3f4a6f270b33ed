"""How the constants of medkd/claims/stain_expert.py were chosen: F1 at IoU 0.5 on bccd's training images, nothing else.

    python benchmarks/stain_expert.py BLOOD_CELLS

Prints every choice that was tried, the best first, and how it fares on the same images under another stain, gamma and
blur (`blood_cell_data.shifted`): a check that the best is not tied to one stain. A few minutes on one core.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np

from medkd.claims.blood_cell_data import read_rows, shifted
from medkd.claims.stain_expert import white_cells
from medkd.data.image_files import read_image
from medkd.metrics.matching import box_iou, match

GRID = {"least": (0.8, 0.9, 1.0), "bridge": (4, 6, 8), "area": (0.008, 0.014, 0.02), "grown": (0.1, 0.17, 0.25)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    domain = parser.parse_args().data / "bccd"
    truth: dict[str, list[list[float]]] = {}
    for row in read_rows(domain):
        if row["split"] == "train":
            boxes = truth.setdefault(row["image"], [])
            if row["label"] == "WBC":
                boxes.append([float(row[k]) for k in ("xmin", "ymin", "xmax", "ymax")])
    images = {name: read_image(domain / "images" / name) for name in truth}
    changed = {name: shifted(pixels) for name, pixels in images.items()}
    print("precision recall F1 | under another stain | constants")
    rows = []
    for values in itertools.product(*GRID.values()):
        options = dict(zip(GRID, values))
        rows.append((_scores(images, truth, options), options))
    rows.sort(key=lambda row: -row[0][2])
    for number, (scores, options) in enumerate(rows):
        other = _words(_scores(changed, truth, options)) if number < 5 else ""
        print(f"{_words(scores)} | {other} | {options}", flush=True)


def _scores(
    images: dict[str, np.ndarray], truth: dict[str, list[list[float]]], options: dict[str, float]
) -> tuple[float, float, float]:
    right = given = true = 0
    for name, pixels in images.items():
        found = white_cells(pixels, **options).boxes.numpy()  # type: ignore[arg-type]
        boxes = np.array(truth[name]).reshape(-1, 4)
        right += int(match(box_iou(found, boxes), np.array([0.5])).sum())
        given, true = given + len(found), true + len(boxes)
    return right / max(given, 1), right / true, 2 * right / (given + true)


def _words(scores: tuple[float, ...]) -> str:
    return " ".join(f"{v:.3f}" for v in scores)


if __name__ == "__main__":
    main()
