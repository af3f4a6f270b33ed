"""The dataset folder of a detection task: images, and boxes in COCO form.

    dataset.yaml, cases.csv, images/   as image_cases.py says; classes: foreground only
    annotations.json               boxes of the labelled training cases, of val and of test
    annotations_train_hidden.json  boxes of UNLABELLED training cases, where the source had them: for diagnosis only

Training and prediction never open the hidden file: `read_hidden_boxes` is the one function that does, and a test holds
that reading a dataset leaves it closed. Without `annotations` no file of boxes is opened at all.

Coordinates are continuous, voxel i covers [i, i + 1). In 2-D `bbox` is COCO's x, y, width, height; in 3-D it is the low
corner and the size along the axes of the stored array, six numbers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from medkd.data.dataset import write_whole
from medkd.data.image_cases import ImageCase, ImageFolder, read_image_folder, write_image_folder
from medkd.errors import InputError, raise_all

ANNOTATIONS = "annotations.json"
HIDDEN = "annotations_train_hidden.json"


@dataclass(frozen=True)
class Boxes:
    """boxes: (N, 2 * D) float32, low corner then high; in 2-D x (to the right), y. labels: (N,) int64, 0 .. K - 1."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.boxes)


@dataclass(frozen=True)
class DetectionDataset(ImageFolder):
    """A checked dataset folder. classes: foreground only. boxes: by case id, of the cases that may be read."""

    boxes: Mapping[str, Boxes] = field(default_factory=dict)

    task: ClassVar[str] = "detection"

    def truth(self, case: ImageCase) -> Boxes:
        """The boxes of a case. Raises InputError for one whose boxes were not, or may not be, read."""
        if case.id not in self.boxes:
            raise InputError(
                f"case {case.id} (split {case.split}, labelled {'yes' if case.labelled else 'no'}) has no boxes that "
                "may be read here"
            )
        return self.boxes[case.id]


def read_detection_dataset(root: Path, annotations: bool = True) -> DetectionDataset:
    """Read and check a dataset folder. Raises InputError with everything that is wrong with it.

    annotations: whether to read boxes at all: of labelled training cases, val and test, never of unlabelled ones.
    """
    problems: list[str] = []
    found, _ = read_image_folder(Path(root), "detection", problems)
    raise_all(problems)
    boxes: Mapping[str, Boxes] = {}
    if annotations:
        wanted = {c.id: c for c in found.cases if c.open_to_training}
        boxes = _read_boxes(found.root / ANNOTATIONS, found.classes, wanted)
    return DetectionDataset(found.root, found.channels, found.classes, found.unit, found.cases, boxes)


def read_hidden_boxes(dataset: DetectionDataset) -> dict[str, Boxes]:
    """The boxes of unlabelled training cases, by case id: for diagnosis, and for an oracle that says it is one.

    Nothing that trains or chooses a model may call this. Raises InputError where the dataset has none.
    """
    path = dataset.root / HIDDEN
    if not path.is_file():
        raise InputError(f"{dataset.root} holds no boxes of its unlabelled training cases ({HIDDEN})")
    return _read_boxes(path, dataset.classes, {c.id: c for c in dataset.cases if not c.open_to_training})


def write_detection_dataset(
    dataset: DetectionDataset, about: Mapping[str, Any], hidden: Mapping[str, Boxes] | None = None
) -> None:
    """Write the files of boxes, cases.csv, then dataset.yaml; each whole or not at all. Images must lie there already.

    about: licence, provenance and the like. hidden: boxes of unlabelled training cases.
    """
    seen = [c for c in dataset.cases if c.open_to_training]
    write_whole(dataset.root / ANNOTATIONS, _coco(seen, dataset.boxes, dataset))
    if hidden:
        secret = [c for c in dataset.cases if not c.open_to_training and c.id in hidden]
        write_whole(dataset.root / HIDDEN, _coco(secret, hidden, dataset))
    write_image_folder(dataset, about)


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


def _coco(cases: Sequence[ImageCase], boxes: Mapping[str, Boxes], dataset: DetectionDataset) -> str:
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


def _read_boxes(path: Path, classes: Sequence[str], wanted: Mapping[str, ImageCase]) -> dict[str, Boxes]:
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
