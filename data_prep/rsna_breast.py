"""RSNA screening mammography to a dataset folder for detection.

    python data_prep/rsna_breast.py RSNA --boxes bsd1k.json --out datasets/rsna [--labelled none]

RSNA holds train.csv (patient_id, image_id, ...) and train_images/PATIENT/IMAGE.dcm. The challenge has no boxes; --boxes
is a COCO file of others (such as RSNA-BSD1K) whose file names are IMAGE with any ending or folder. Images that it does
not list are left out; without it every image is for training, unlabelled. The challenge's data may not be passed on;
reading them is shown on a generated tree of the same structure (tests/data_prep).
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

from medkd.data.box_files import read_box_file
from medkd.data.dataset import read_table
from medkd.data.detection_dataset import DetectionDataset
from medkd.errors import InputError
from medkd.runs.prepare_detection import Labelled, prepare_detection

SHARES = (0.7, 0.1, 0.2)
HEAD = ["image", "patient", "label", "xmin", "ymin", "xmax", "ymax"]


def prepare_rsna(
    source: Path, out: Path, boxes: Path | None = None, labelled: Labelled = "all", seed: int = 0
) -> DetectionDataset:
    """Write the dataset folder `out`, split by patient."""
    about = {
        "provenance": "RSNA Screening Mammography Breast Cancer Detection (2022)",
        "licence": "the challenge's rules",
    }
    images = source / "train_images"
    if boxes is None:
        return prepare_detection(images, out, classes=("mass",), labelled="none", about=about)
    patients = {
        row["image_id"]: row["patient_id"] for row in read_table(source / "train.csv", ("patient_id", "image_id"))
    }
    found = read_box_file(boxes)
    problems = list(found.problems)
    rows: list[list[object]] = []
    for name, one in found.images.items():
        image = Path(name).stem
        if image not in patients:
            problems.append(f"image {name!r} of {boxes.name} is not in train.csv")
            continue
        path = f"{patients[image]}/{image}.dcm"
        drawn = [[path, patients[image], "mass", *corners] for _, corners in one.boxes]
        rows += drawn or [[path, patients[image], "", "", "", "", ""]]
    if problems:
        raise InputError(problems)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "boxes.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEAD, *rows])
        return prepare_detection(
            images, out, boxes=table, classes=("mass",), split=SHARES, labelled=labelled, seed=seed,
            listed_only=True, about=about,
        )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--boxes", type=Path)
    parser.add_argument("--labelled", choices=("all", "none"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        dataset = prepare_rsna(arguments.source, arguments.out, arguments.boxes, arguments.labelled, arguments.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{split} {len(dataset.select(split))}" for split in ("train", "val", "test")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
