"""The handwritten digits that come with scikit-learn (1,797 pictures of 8 x 8) to a dataset folder for classification.

    python data_prep/digits.py --out datasets/digits --labelled 200

Nothing is downloaded. Nobody knows the writers any more: every picture stands alone (`unit: image`), so that pictures
of one writer are in training and test alike. The split is drawn with --seed. --labelled: all, or a number of training
pictures; the others are unlabelled, and their classes are not in the folder.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

from medkd.data.classification_dataset import ClassificationDataset
from medkd.data.image_files import png_bytes
from medkd.errors import InputError
from medkd.runs.prepare_classification import prepare_classification
from medkd.runs.prepare_images import Labelled

SHARES = (0.5, 0.2, 0.3)


def prepare_digits(out: Path, labelled: Labelled = "all", seed: int = 0) -> ClassificationDataset:
    """Write the dataset folder `out`. Values 0 to 16 become 0 to 255."""
    images, labels = load_digits(return_X_y=True)
    pixels = np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    about = {"provenance": "UCI optical recognition of handwritten digits, as in scikit-learn", "licence": "CC BY 4.0"}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        rows = [[f"digit{number:04d}", str(label)] for number, label in enumerate(labels)]
        for (name, _), picture in zip(rows, pixels):
            (folder / f"{name}.png").write_bytes(png_bytes(picture))
        with (folder / "table.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["image", "label"], *rows])
        return prepare_classification(
            folder, out, table=folder / "table.csv", split=SHARES, labelled=labelled, seed=seed,
            keep_identifiers=True, about=about,
        )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", default="all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    word = arguments.labelled
    try:
        if not (word == "all" or word.isdecimal()):
            raise InputError(f"--labelled is {word!r}; allowed: all, or a number of pictures")
        dataset = prepare_digits(arguments.out, int(word) if word.isdecimal() else "all", arguments.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{split} {len(dataset.select(split))}" for split in ("train", "val", "test")))
    print(f"labelled for training: {len(dataset.select('train', labelled=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
