"""The hippocampus task of the Medical Segmentation Decathlon (Task04) to a dataset folder.

    python data_prep/hippocampus.py HIPPOCAMPUS --out datasets/hippocampus --labelled 9

HIPPOCAMPUS holds images/ and labels/ (or the release's imagesTr/ and labelsTr/). Every scan is a patient of its own.
Scans without a label and labels without a scan are left out and counted. The split is drawn with --seed.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path

from medkd.data.dataset import Dataset
from medkd.errors import InputError
from medkd.runs.prepare import prepare

CLASSES = ("background", "anterior", "posterior")
SHARES = (0.7, 0.1, 0.2)


def prepare_hippocampus(source: Path, out: Path, labelled: int, seed: int = 0) -> Dataset:
    """Write the dataset folder `out` from the scans that have a label."""
    rows = paired(source)
    about = {"provenance": "Medical Segmentation Decathlon, Task04 Hippocampus", "licence": "CC BY-SA 4.0"}
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "cases.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([["case", "patient", "image", "label"], *rows])
        return prepare(
            source, out, table=table, classes=CLASSES, channels=("mr",), split=SHARES, labelled=labelled, seed=seed,
            about=about,
        )  # fmt: skip


def paired(source: Path) -> list[list[str]]:
    """case, patient, image and label (relative to `source`) of every scan that has both, by name."""
    folders = [pair for pair in (("images", "labels"), ("imagesTr", "labelsTr")) if (source / pair[0]).is_dir()]
    if not folders:
        raise InputError(f"no images/ or imagesTr/ in {source}; give the folder of the hippocampus task")
    images, labels = ({p.name: p for p in (source / f).glob("hippocampus_*.nii.gz")} for f in folders[0])
    names = sorted(images.keys() & labels.keys())
    if not names:
        raise InputError(f"no hippocampus_*.nii.gz in both {' and '.join(folders[0])} of {source}")
    stems = [name.removesuffix(".nii.gz") for name in names]
    return [[s, s, f"{folders[0][0]}/{n}", f"{folders[0][1]}/{n}"] for s, n in zip(stems, names)]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", type=int, default=9)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        dataset = prepare_hippocampus(arguments.source, arguments.out, arguments.labelled, arguments.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{split} {len(dataset.select(split))}" for split in ("train", "val", "test")))
    print(f"labelled for training: {len(dataset.select('train', labelled=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
