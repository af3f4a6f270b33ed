"""The masses of CBIS-DDSM (digitised film mammograms) to a dataset folder for detection: boxes around the drawn masks.

    python data_prep/cbis_ddsm.py CBIS --out datasets/cbis [--labelled none]

CBIS holds mass_case_description_{train,test}_set.csv and, at the paths these name, the DICOM folders of the images and
of their masks. Files are known by what they hold, not by name, because downloads number them differently and some rows
swap mask and crop: the mask is the file of two values that has the size of its image. Test is the release's; a tenth of
the training patients becomes val. Reading is shown on a generated tree of this structure (tests/data_prep).
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

import numpy as np

from medkd.data.dataset import read_table
from medkd.data.detection_dataset import DetectionDataset
from medkd.data.splits import shuffled
from medkd.errors import InputError
from medkd.imaging.dicom.picture import read_picture
from medkd.runs.prepare_detection import Labelled, prepare_detection

HEAD = ["image", "patient", "split", "label", "xmin", "ymin", "xmax", "ymax"]
NEEDED = ("patient_id", "image file path", "cropped image file path", "ROI mask file path")


def prepare_cbis(source: Path, out: Path, labelled: Labelled = "all", seed: int = 0) -> DetectionDataset:
    """Write the dataset folder `out`."""
    found, problems = [], []
    for split in ("train", "test"):
        for row in read_table(source / f"mass_case_description_{split}_set.csv", NEEDED):
            try:
                image, box = mass(source, row)
                found.append([image, row["patient_id"], split, "mass", *box])
            except InputError as error:
                problems += error.problems
    if problems:
        raise InputError(problems)
    train = {patient for _, patient, split, *_ in found if split == "train"}
    held_out = set(shuffled(train, seed, "val")[: max(1, len(train) // 10)])
    rows = [[i, p, "val" if s == "train" and p in held_out else s, *rest] for i, p, s, *rest in found]
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "boxes.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEAD, *rows])
        about = {"provenance": "CBIS-DDSM, masses (Lee et al., Scientific Data 2017)", "licence": "CC BY 3.0"}
        return prepare_detection(
            source, out, boxes=table, classes=("mass",), labelled=labelled, seed=seed, listed_only=True, about=about,
            allow_burned_in=True,  # secondary captures all, published without patients
        )  # fmt: skip


def mass(source: Path, row: dict[str, str]) -> tuple[str, tuple[float, float, float, float]]:
    """The image of a row, relative to `source`, and the box around its mask. Raises InputError."""
    images = _files(source, row["image file path"])
    if len(images) != 1:
        raise InputError(f"{row['image file path']}: {len(images)} DICOM files in its folder; one is needed")
    shape = read_picture(images[0], allow_burned_in=True).pixels.shape
    for path in _files(source, row["ROI mask file path"]) + _files(source, row["cropped image file path"]):
        pixels = read_picture(path, allow_burned_in=True).pixels
        if pixels.shape == shape and len(np.unique(pixels)) == 2:
            y, x = np.nonzero(pixels > pixels.min())
            box = (float(x.min()), float(y.min()), float(x.max() + 1), float(y.max() + 1))
            return images[0].relative_to(source).as_posix(), box
    raise InputError(f"{row['ROI mask file path']}: no mask of two values and of the image's size in its folder")


def _files(source: Path, stated: str) -> list[Path]:
    """The DICOM files beside the one a row names. Rows come with stray quotes and line ends."""
    folder = Path(stated.strip().strip('"')).parent
    if folder.is_absolute() or ".." in folder.parts:
        raise InputError(f"{stated!r} lies outside {source}")
    return sorted((source / folder).glob("*.dcm"))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", choices=("all", "none"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        dataset = prepare_cbis(arguments.source, arguments.out, arguments.labelled, arguments.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{split} {len(dataset.select(split))}" for split in ("train", "val", "test")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
