"""One domain of the blood smears (bccd or raabin) to a dataset folder for detection.

    python data_prep/blood_cells.py BLOOD_CELLS --domain bccd --out datasets/bccd
    python data_prep/blood_cells.py BLOOD_CELLS --domain raabin --labelled none --out datasets/raabin

BLOOD_CELLS holds DOMAIN/images/*.jpg and DOMAIN/annotations.csv (image, split, width, height, label, xmin, ymin, xmax,
ymax). The split is that of the file. Nobody knows the patients: every image stands alone (`unit: image`).
--labelled: all, none, or a number of training images. With none the boxes of the training images are hidden: training
never opens their file.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from medkd.data.detection_dataset import DetectionDataset
from medkd.errors import InputError
from medkd.runs.prepare_detection import Labelled, prepare_detection

CLASSES = ("RBC", "WBC", "Platelet")


def prepare_blood_cells(source: Path, domain: str, out: Path, labelled: Labelled = "all") -> DetectionDataset:
    """Write the dataset folder `out` of one domain."""
    if not (source / domain / "annotations.csv").is_file():
        raise InputError(f"no {domain}/annotations.csv in {source}; give the folder that holds bccd/ and raabin/")
    about = {"provenance": f"TXL-PBC blood smears, domain {domain}", "licence": "MIT"}
    return prepare_detection(
        source / domain, out, boxes=source / domain / "annotations.csv", classes=CLASSES, labelled=labelled,
        keep_identifiers=True, about=about,
    )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--domain", choices=("bccd", "raabin"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", default="all")
    arguments = parser.parse_args()
    word = arguments.labelled
    try:
        if not (word in ("all", "none") or word.isdecimal()):
            raise InputError(f"--labelled is {word!r}; allowed: all, none, or a number of images")
        dataset = prepare_blood_cells(
            arguments.source, arguments.domain, arguments.out, int(word) if word.isdecimal() else word
        )
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{split} {len(dataset.select(split))}" for split in ("train", "val", "test")))
    print(f"labelled for training: {len(dataset.select('train', labelled=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
