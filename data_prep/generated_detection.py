"""A generated detection dataset of one of two domains: mammograms, blood smears, or volumes with nodules (3-D).

    python data_prep/generated_detection.py nodules --domain source --out datasets/nodules_source
    python data_prep/generated_detection.py nodules --domain target --labelled none --out datasets/nodules_target

For trying things out without a download; nobody's patient, and nothing about real ones follows from it.
--counts: images for train, val and test. --labelled: all, none, or a number of training images; the boxes of the
others lie in a file that training never opens.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

from medkd.data.detection_dataset import DetectionDataset
from medkd.data.detection_phantom import CLASSES, Domain, Kind, write_phantom
from medkd.errors import InputError
from medkd.runs.prepare_detection import Labelled, prepare_detection


def prepare_generated(
    kind: Kind, domain: Domain, out: Path, counts: tuple[int, int, int], labelled: Labelled = "all", seed: int = 0
) -> DetectionDataset:
    """Write the dataset folder `out`."""
    if counts[0] < 1 or min(counts) < 0:
        raise InputError(f"--counts is {' '.join(map(str, counts))}; three numbers, the first at least 1")
    with tempfile.TemporaryDirectory() as folder:
        raw = Path(folder)
        write_phantom(raw, domain, counts, kind, seed)
        return prepare_detection(
            raw, out, boxes=raw / "boxes.csv", classes=CLASSES[kind], labelled=labelled, keep_identifiers=True,
            about={"provenance": f"generated {kind}, domain {domain}, seed {seed}", "licence": "CC0-1.0"},
        )  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=CLASSES)
    parser.add_argument("--domain", choices=("source", "target"), required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--counts", type=int, nargs=3, default=(60, 8, 60))
    parser.add_argument("--labelled", default="all")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    word = given.labelled
    try:
        if not (word in ("all", "none") or word.isdecimal()):
            raise InputError(f"--labelled is {word!r}; allowed: all, none, or a number of images")
        labelled: Labelled = int(word) if word.isdecimal() else word
        dataset = prepare_generated(given.kind, given.domain, given.out, tuple(given.counts), labelled, given.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{split} {len(dataset.select(split))}" for split in ("train", "val", "test")))
    print(f"labelled for training: {len(dataset.select('train', labelled=True))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
