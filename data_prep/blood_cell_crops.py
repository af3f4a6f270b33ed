"""Single blood cells, cut out of the smears of one domain (bccd or raabin), to a dataset folder for classification.

    python data_prep/blood_cell_crops.py BLOOD_CELLS --domain bccd --out datasets/cells

BLOOD_CELLS is what data_prep/blood_cells.py reads. A crop is a square about a box, 1.2 times its longer side, moved
into the smear where it would leave it. The split is that of the file, by smear: all cells of a smear are in one split.
Nobody knows the patients; the smear takes their place (`unit: image`). Red cells outnumber the others twenty times: at
most --most of a smear are taken of each class, drawn with --seed.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from medkd.data.box_files import read_box_file
from medkd.data.classification_dataset import ClassificationDataset
from medkd.data.image_files import png_bytes, read_image
from medkd.data.splits import shuffled
from medkd.errors import InputError
from medkd.runs.prepare_classification import prepare_classification
from medkd.runs.prepare_images import Labelled

CLASSES = ("RBC", "WBC", "Platelet")
MARGIN = 1.2


def prepare_crops(
    source: Path, domain: str, out: Path, labelled: Labelled = "all", most: int = 3, seed: int = 0
) -> ClassificationDataset:
    """Write the dataset folder `out` of one domain. labelled: all, or a number of training smears."""
    if not (source / domain / "annotations.csv").is_file():
        raise InputError(f"no {domain}/annotations.csv in {source}; give the folder that holds bccd/ and raabin/")
    stated = read_box_file(source / domain / "annotations.csv")
    about = {"provenance": f"TXL-PBC blood smears, domain {domain}, cut by their boxes", "licence": "MIT"}
    with tempfile.TemporaryDirectory() as temporary:
        folder, rows = Path(temporary), [["image", "label", "patient", "split"]]
        for name, one in stated.images.items():
            pixels, smear = read_image(source / domain / "images" / name), Path(name).stem
            for label in CLASSES:
                numbers = [str(n) for n, (kind, _) in enumerate(one.boxes) if kind == label]
                for number in shuffled(numbers, seed, smear)[:most]:
                    crop = f"{smear}_{int(number):03d}"
                    (folder / f"{crop}.png").write_bytes(png_bytes(cut(pixels, one.boxes[int(number)][1])))
                    rows.append([crop, label, smear, one.split])
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(rows)
        return prepare_classification(
            folder, out, table=folder / "table.csv", classes=CLASSES, labelled=labelled, seed=seed, unit="image",
            keep_identifiers=True, about=about,
        )  # fmt: skip


def cut(pixels: np.ndarray, corners: tuple[float, ...]) -> np.ndarray:
    """The square about a box (x0, y0, x1, y1), within the picture (H, W, 3) and not larger than its shorter side."""
    x0, y0, x1, y1 = corners
    side = min(round(MARGIN * max(x1 - x0, y1 - y0, 4)), *pixels.shape[:2])
    left, top = (
        int(np.clip(round((low + high - side) / 2), 0, limit - side))
        for low, high, limit in ((x0, x1, pixels.shape[1]), (y0, y1, pixels.shape[0]))
    )
    return np.ascontiguousarray(pixels[top : top + side, left : left + side])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--domain", choices=("bccd", "raabin"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", default="all")
    parser.add_argument("--most", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    word = arguments.labelled
    try:
        if not (word == "all" or word.isdecimal()):
            raise InputError(f"--labelled is {word!r}; allowed: all, or a number of smears")
        dataset = prepare_crops(
            arguments.source, arguments.domain, arguments.out, int(word) if word.isdecimal() else "all",
            arguments.most, arguments.seed,
        )  # fmt: skip
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    for split in ("train", "val", "test"):
        cases = dataset.select(split)
        print(f"{split}: {len(cases)} cells of {len({case.patient for case in cases})} smears")
    print(f"labelled for training: {len(dataset.select('train', labelled=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
