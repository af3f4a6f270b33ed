"""Folders of the source-free experiment on blood smears, one a role, so that a run can only open what its role allows.

source      bccd as it is, with its labels
unlabelled  the target's training images and nothing else: their boxes lie in the hidden file, which diagnosis opens
held_out    the target's validation and test images with their boxes, scored once at the end of a run
labelled    the target's training images with their boxes, every tenth for validation: for the oracle
"""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from scipy import ndimage

from medkd.claims.runner import claimed
from medkd.claims.stain_expert import white_cells
from medkd.data.dataset import write_whole
from medkd.data.detection_dataset import read_detection_dataset
from medkd.data.image_files import read_image
from medkd.detection.experts import expert_file
from medkd.errors import InputError
from medkd.runs.prepare_detection import Labelled, prepare_detection

CLASSES = ("RBC", "WBC", "Platelet")
SOURCE, TARGET, SHIFTED = "bccd", "raabin", "bccd_shifted"
ABOUT = {"provenance": "TXL-PBC blood smears", "licence": "MIT"}


@dataclass(frozen=True)
class Folders:
    source: Path
    unlabelled: Path
    held_out: Path
    labelled: Path
    expert: Path
    """What the expert says of the target's training images (COCO JSON)."""


def prepare_folders(root: Path, target: str, place: Path) -> Folders:
    """Make what is missing in `place`. target: a folder beside bccd, or SHIFTED, which is made from bccd."""
    with claimed(place / "prepare.lock", wait=True):
        domain = shifted_domain(root / SOURCE, place / "shifted") if target == SHIFTED else root / target
        folders = Folders(
            _folder(root / SOURCE, place / SOURCE, lambda split, number: split),
            _folder(
                domain, place / f"{target}_unlabelled", lambda split, number: _if(split == "train", "train"), "none"
            ),
            _folder(domain, place / f"{target}_held_out", lambda split, number: _if(split != "train", "test")),
            _folder(domain, place / f"{target}_labelled", _for_oracle),
            place / f"{target}_expert.json",
        )
        if not folders.expert.exists():
            cases = read_detection_dataset(folders.unlabelled, annotations=False).cases
            expert_file(white_cells, ((c.id, read_image(c.image)) for c in cases), CLASSES, folders.expert)
    return folders


def _if(wanted: bool, split: str) -> str | None:
    return split if wanted else None


def _for_oracle(split: str, number: int) -> str | None:
    return _if(split == "train", "train" if number % 10 else "val")


def _folder(domain: Path, out: Path, place: Callable[[str, int], str | None], labelled: Labelled = "all") -> Path:
    """A dataset folder of a domain. place(split, number of the image): its split there, None to leave it out. Nothing
    is done if the folder is there."""
    if (out / "dataset.yaml").exists():
        return out
    rows = read_rows(domain)
    numbers = {name: number for number, name in enumerate(dict.fromkeys(row["image"] for row in rows))}
    placed = [(row, place(row["split"], numbers[row["image"]])) for row in rows]
    table = io.StringIO()
    writer = csv.DictWriter(table, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(row | {"split": split} for row, split in placed if split)
    boxes = out.with_name(f"{out.name}.csv")
    write_whole(boxes, table.getvalue())
    prepare_detection(
        domain, out, boxes=boxes, classes=CLASSES, labelled=labelled, listed_only=True, keep_identifiers=True,
        about=ABOUT,
    )  # fmt: skip
    return out


def read_rows(domain: Path) -> list[dict[str, str]]:
    """The rows of DOMAIN/annotations.csv, a box each. Raises InputError where there is none."""
    path = domain / "annotations.csv"
    if not path.is_file():
        raise InputError(f"no {path}; give --data the folder that holds {SOURCE}/ and {TARGET}/")
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def split_hash(root: Path, target: str) -> str:
    """Hash of both domains' boxes and splits."""
    names = (SOURCE, target) if target != SHIFTED else (SOURCE,)
    digest = hashlib.sha256(target.encode())
    for name in names:
        digest.update(repr(read_rows(root / name)).encode())
    return digest.hexdigest()[:16]


def shifted_domain(source: Path, out: Path) -> Path:
    """The source under another stain, gamma and blur: a target to develop on, whose labels are known."""
    if not (out / "annotations.csv").exists():
        (out / "images").mkdir(parents=True, exist_ok=True)
        for path in sorted((source / "images").iterdir()):
            Image.fromarray(shifted(read_image(path))).save(out / "images" / path.name, quality=95)
        write_whole(out / "annotations.csv", (source / "annotations.csv").read_text())
    return out


def shifted(pixels: np.ndarray) -> np.ndarray:
    """Another laboratory's picture of the same cells (H, W, 3) uint8: darker by a gamma, tinted, out of focus."""
    changed = (pixels / 255.0) ** 1.6 * np.array([0.95, 0.8, 0.85])
    return np.asarray((255 * ndimage.gaussian_filter(changed, (2, 2, 0))).round(), np.uint8)
