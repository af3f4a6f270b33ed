"""The dataset folder of a detection task: images, and boxes in COCO form.

    dataset.yaml   task: detection, channels, classes (foreground only), unit (patient or image), licence, provenance
    cases.csv      case, patient, split, labelled, image, spacing, shape
    images/        PNG (8 or 16 bits) and JPEG in 2-D, NIfTI in 3-D
    annotations.json               boxes of the labelled training cases, of val and of test
    annotations_train_hidden.json  boxes of UNLABELLED training cases, where the source had them: for diagnosis only

Training and prediction never open the hidden file: `read_hidden_boxes` is the one function that does, and a test holds
that reading a dataset leaves it closed. Without `annotations` no file of boxes is opened at all.

Coordinates are continuous, voxel i covers [i, i + 1). In 2-D `bbox` is COCO's x, y, width, height; in 3-D it is the low
corner and the size along the axes of the stored array, six numbers.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml
from numpy.typing import NDArray

from medkd.data.dataset import inside, name_problems, read_table, split_problems, write_whole
from medkd.errors import InputError, raise_all

ANNOTATIONS = "annotations.json"
HIDDEN = "annotations_train_hidden.json"
COLUMNS = ("case", "patient", "split", "labelled", "image", "spacing", "shape")
Unit = Literal["patient", "image"]


@dataclass(frozen=True)
class DetectionCase:
    """One image. shape: (H, W) of a picture, (X, Y, Z) of a volume. spacing: mm along these axes, None if unknown."""

    id: str
    patient: str
    split: str
    labelled: bool
    image: Path
    spacing: tuple[float, ...] | None
    shape: tuple[int, ...]

    @property
    def dims(self) -> int:
        return len(self.shape)


@dataclass(frozen=True)
class Boxes:
    """boxes: (N, 2 * D) float32, low corner then high; in 2-D x (to the right), y. labels: (N,) int64, 0 .. K - 1."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class DetectionDataset:
    """A checked dataset folder. classes: foreground only, by label. boxes: by case id, of the cases that may be read.

    unit: what a case of its own is: the patient, or, where nobody knows the patients, the image.
    """

    root: Path
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    unit: Unit
    cases: tuple[DetectionCase, ...]
    boxes: Mapping[str, Boxes] = field(default_factory=dict)
    task: str = "detection"

    def select(self, split: str, labelled: bool | None = None) -> tuple[DetectionCase, ...]:
        """The cases of a split, in file order; `labelled` keeps only those with or without usable boxes."""
        return tuple(c for c in self.cases if c.split == split and labelled in (None, c.labelled))

    def truth(self, case: DetectionCase) -> Boxes:
        """The boxes of a case. Raises InputError for one whose boxes were not, or may not be, read."""
        if case.id not in self.boxes:
            raise InputError(
                f"case {case.id} (split {case.split}, labelled {'yes' if case.labelled else 'no'}) has no boxes that "
                "may be read here"
            )
        return self.boxes[case.id]

    @property
    def fingerprint(self) -> str:
        """Hash of which case is where and whether it is labelled: two runs with one fingerprint used one split."""
        rows = "\n".join(f"{c.id},{c.patient},{c.split},{c.labelled}" for c in self.cases)
        return hashlib.sha256(rows.encode()).hexdigest()[:16]


def open_to_training(case: DetectionCase) -> bool:
    """Whether the boxes of a case are no secret: labelled, or held out for validation or test."""
    return case.labelled or case.split != "train"


def read_detection_dataset(root: Path, annotations: bool = True) -> DetectionDataset:
    """Read and check a dataset folder. Raises InputError with everything that is wrong with it.

    annotations: whether to read boxes at all: of labelled training cases, val and test, never of unlabelled ones.
    """
    root = Path(root)
    if not (root / "dataset.yaml").is_file() or not (root / "cases.csv").is_file():
        raise InputError(f"no dataset at {root} (dataset.yaml and cases.csv); make one with medkd prepare")
    try:
        about = yaml.safe_load((root / "dataset.yaml").read_text(encoding="utf-8"))
        task, unit = about["task"], about.get("unit", "patient")
        channels, classes = tuple(about["channels"]), tuple(about["classes"])
    except (yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{root / 'dataset.yaml'} needs task, channels and classes: {error}") from None
    if task != "detection":
        raise InputError(f"{root} is a dataset for {task}, not for detection")
    problems = name_problems("channel", channels) + name_problems("class", classes)
    if unit not in ("patient", "image"):
        problems.append(f"unit is {unit!r} in dataset.yaml; allowed: patient, image")
    cases = tuple(c for row in read_table(root / "cases.csv", COLUMNS) if (c := _case(root, row, problems)))
    problems += split_problems([(c.id, c.patient, c.split) for c in cases])
    problems += [f"case {c.id}: no file {c.image.relative_to(root)}" for c in cases if not c.image.is_file()]
    raise_all(problems)
    boxes: Mapping[str, Boxes] = {}
    if annotations:
        boxes = _read_boxes(root / ANNOTATIONS, classes, {c.id: c for c in cases if open_to_training(c)})
    return DetectionDataset(root, channels, classes, unit, cases, boxes)


def read_hidden_boxes(dataset: DetectionDataset) -> dict[str, Boxes]:
    """The boxes of unlabelled training cases, by case id: for diagnosis, and for an oracle that says it is one.

    Nothing that trains or chooses a model may call this. Raises InputError where the dataset has none.
    """
    path = dataset.root / HIDDEN
    if not path.is_file():
        raise InputError(f"{dataset.root} holds no boxes of its unlabelled training cases ({HIDDEN})")
    return _read_boxes(path, dataset.classes, {c.id: c for c in dataset.cases if not open_to_training(c)})


def write_detection_dataset(
    dataset: DetectionDataset, about: Mapping[str, Any], hidden: Mapping[str, Boxes] | None = None
) -> None:
    """Write the files of boxes, cases.csv, then dataset.yaml; each whole or not at all. Images must lie there already.

    about: licence, provenance and the like. hidden: boxes of unlabelled training cases.
    """
    seen = [c for c in dataset.cases if open_to_training(c)]
    write_whole(dataset.root / ANNOTATIONS, _coco(seen, dataset.boxes, dataset))
    if hidden:
        secret = [c for c in dataset.cases if not open_to_training(c) and c.id in hidden]
        write_whole(dataset.root / HIDDEN, _coco(secret, hidden, dataset))
    table = io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(COLUMNS)
    for c in dataset.cases:
        spacing = "x".join(f"{v:.6g}" for v in c.spacing) if c.spacing else "unknown"
        image = c.image.relative_to(dataset.root).as_posix()
        labelled = "yes" if c.labelled else "no"
        writer.writerow([c.id, c.patient, c.split, labelled, image, spacing, "x".join(map(str, c.shape))])
    write_whole(dataset.root / "cases.csv", table.getvalue())
    head = {
        "task": "detection",
        "channels": list(dataset.channels),
        "classes": list(dataset.classes),
        "unit": dataset.unit,
    }
    text = yaml.safe_dump(head | dict(about), sort_keys=False, allow_unicode=True)
    write_whole(dataset.root / "dataset.yaml", text)


def box_problems(boxes: Boxes, shape: Sequence[int], classes: int) -> list[str]:
    """What is wrong with the boxes of an image of this shape: values, sizes, places outside, labels."""
    limits = np.array(shape[::-1] if len(shape) == 2 else shape, np.float64)
    if boxes.boxes.shape != (len(boxes.labels), 2 * len(shape)):
        return [f"boxes have the shape {boxes.boxes.shape}; ({len(boxes.labels)}, {2 * len(shape)}) is needed"]
    low, high = boxes.boxes[:, : len(shape)], boxes.boxes[:, len(shape) :]
    problems = []
    for number in range(len(boxes)):
        text = f"box {number + 1} {boxes.boxes[number].round(2).tolist()}"
        if not np.isfinite(boxes.boxes[number]).all():
            problems.append(f"{text} is not finite")
        elif (high[number] <= low[number]).any():
            problems.append(f"{text} has no size")
        elif (low[number] < 0).any() or (high[number] > limits).any():
            problems.append(f"{text} lies outside the image of {' x '.join(f'{v:g}' for v in limits)} (x, y ...)")
    if len(boxes) and not 0 <= boxes.labels.min() <= boxes.labels.max() < classes:
        problems.append(f"labels {sorted(set(boxes.labels.tolist()))}; allowed: 0 to {classes - 1}")
    return problems


def _coco(cases: Sequence[DetectionCase], boxes: Mapping[str, Boxes], dataset: DetectionDataset) -> str:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for number, case in enumerate(cases, 1):
        name = case.image.relative_to(dataset.root).as_posix()
        size = {"height": case.shape[0], "width": case.shape[1]} if case.dims == 2 else {"shape": list(case.shape)}
        images.append({"id": number, "file_name": name, "case": case.id} | size)
        found = boxes[case.id]
        for box, label in zip(found.boxes.astype(np.float64), found.labels):
            low, extent = box[: case.dims], box[case.dims :] - box[: case.dims]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": int(label) + 1,
                    "bbox": [round(float(v), 4) for v in (*low, *extent)],
                    "area": round(float(np.prod(extent)), 4),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": k, "name": name} for k, name in enumerate(dataset.classes, 1)]
    return json.dumps({"images": images, "annotations": annotations, "categories": categories}, indent=0)


def _read_boxes(path: Path, classes: Sequence[str], wanted: Mapping[str, DetectionCase]) -> dict[str, Boxes]:
    """The boxes of exactly the `wanted` cases, joined by case id. Another case in the file is a leak, and refused."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        names = {image["id"]: image["case"] for image in found["images"]}
        rows: dict[str, list[tuple[list[float], int]]] = {name: [] for name in names.values()}
        for one in found["annotations"]:
            rows[names[one["image_id"]]].append(([float(v) for v in one["bbox"]], int(one["category_id"]) - 1))
        kinds = tuple(kind["name"] for kind in sorted(found["categories"], key=lambda kind: int(kind["id"])))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not the file of boxes that medkd prepare wrote: {error!r}") from None
    problems = [] if kinds == tuple(classes) else [f"{path.name} names the classes {kinds}, dataset.yaml {classes}"]
    problems += [f"{path.name} holds case {name}, whose boxes it must not hold" for name in rows if name not in wanted]
    if missing := [name for name in wanted if name not in rows]:
        problems.append(f"{path.name} lacks {len(missing)} cases ({', '.join(missing[:5])})")
    boxes = {}
    for name in wanted:
        dims = wanted[name].dims
        if any(len(box) != 2 * dims for box, _ in rows.get(name, ())):
            problems.append(f"case {name}: a bbox does not hold {2 * dims} numbers")
            continue
        values = np.array([box for box, _ in rows.get(name, ())], np.float64).reshape(-1, 2 * dims)
        values[:, dims:] += values[:, :dims]
        labels = np.array([label for _, label in rows.get(name, ())], np.int64)
        boxes[name] = Boxes(values.astype(np.float32), labels)
        problems += [f"case {name}: {p}" for p in box_problems(boxes[name], wanted[name].shape, len(classes))]
    raise_all(problems)
    return boxes


def _case(root: Path, row: Mapping[str, str], problems: list[str]) -> DetectionCase | None:
    """One row, or None and what is wrong with it."""
    wrong = [f"{column} is empty" for column in ("case", "patient", "image") if not row[column]]
    image = inside(root, row["image"])
    if image is None:
        wrong.append(f"image is {row['image']!r}, outside the dataset")
    if row["labelled"] not in ("yes", "no"):
        wrong.append(f"labelled is {row['labelled']!r}; allowed: yes, no")
    try:
        shape = tuple(int(v) for v in row["shape"].split("x"))
        spacing = None if row["spacing"] == "unknown" else tuple(float(v) for v in row["spacing"].split("x"))
    except ValueError:
        shape, spacing = (), None
    if len(shape) not in (2, 3) or min(shape, default=0) < 1:
        wrong.append(f"shape is {row['shape']!r}; write two or three numbers, 480x640 (rows first) or 64x64x32")
    if spacing is not None and (len(spacing) != len(shape) or not all(0 < v < math.inf for v in spacing)):
        wrong.append(f"spacing is {row['spacing']!r}; write a number in mm for each axis of shape, or unknown")
    problems += [f"case {row['case']}: {w}" for w in wrong]
    if wrong or image is None:
        return None
    return DetectionCase(row["case"], row["patient"], row["split"], row["labelled"] == "yes", image, spacing, shape)
