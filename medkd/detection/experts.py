"""The expert of Grounded Teacher: a second, independent set of boxes from a frozen source (card 3.1, 3.6).

Whatever made them (a foundation model, an in-house segmenter, another detector), they come as a file in pixels of the
ORIGINAL images and are joined by the id of the image; `expert_file` writes one from any function that detects. They are
mapped into each view by the view's own matrix. An image that is not in the file has no opinion; one that is in it
without boxes (a CSV row with empty box columns, an entry of `images`) was looked at and is empty.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

from medkd.data.box_geometry import clip_boxes, map_boxes
from medkd.data.targets import Detections
from medkd.detection.pseudo_labels import chosen
from medkd.errors import InputError, raise_all

COLUMNS = ("image_id", "label", "score", "x", "y", "w", "h")


class Expert(Protocol):
    """Finds objects in an image (H, W, C) as it is on disk; boxes in its pixels."""

    def __call__(self, image: NDArray[Any]) -> Detections: ...


class ExpertLabels:
    """Boxes by image id, in original pixels."""

    def __init__(self, by_image: Mapping[str, Detections]):
        self.by_image = dict(by_image)

    @classmethod
    def read(cls, path: Path, classes: Sequence[str]) -> ExpertLabels:
        """From COCO JSON (results, or a whole file with `images` and `categories`) or a CSV with the columns image_id,
        label, score, x, y, w, h. Classes are names, or numbers 0 .. K - 1 where the file has no names.

        Raises InputError that lists everything wrong with it.
        """
        if not path.is_file():
            raise InputError(f"the expert's boxes {path} are not there; give a COCO JSON or a CSV file")
        if path.suffix not in (".json", ".csv"):
            raise InputError(f"the expert's boxes {path} are neither .json (COCO) nor .csv ({', '.join(COLUMNS)})")
        rows, seen = _json_rows(path) if path.suffix == ".json" else _csv_rows(path)
        boxes: dict[str, list[list[float]]] = {image: [] for image in seen}
        problems = []
        for number, (image, label, score, box) in enumerate(rows, 1):
            k = _class(label, classes)
            if k is None:
                problems.append(f"{path}: box {number} is of class {label!r}; allowed: {', '.join(classes)}")
            elif not all(map(math.isfinite, (score, *box))) or box[2] <= 0 or box[3] <= 0 or not 0 <= score <= 1:
                problems.append(
                    f"{path}: box {number} has score {score} and x, y, w, h {box}; needed: a score in 0..1, finite "
                    "corners, w and h above 0"
                )
            else:
                x, y, w, h = box
                boxes.setdefault(image, []).append([x, y, x + w, y + h, float(k), score])
        raise_all(problems[:20])
        return cls({image: _detections(found) for image, found in boxes.items()})

    def in_view(self, image: str, matrix: Tensor, frame: tuple[int, ...]) -> Detections | None:
        """The boxes of an image in a view: matrix (D + 1, D + 1) maps its coordinates to the view's, frame is the shape
        of the view, at whose border boxes are cut. None for an image without opinion."""
        found = self.by_image.get(image)
        if found is None:
            return None
        found = found.to(matrix.device)
        boxes, left = clip_boxes(map_boxes(found.boxes, matrix), frame)
        return chosen(Detections(boxes, found.labels, found.scores), left)


def mask_boxes(
    probability: NDArray[np.floating[Any]], label: int, threshold: float = 0.5, least_pixels: int = 1
) -> Detections:
    """A segmenter as a detector: one box around each connected part (8 neighbours) of probability (H, W) >= threshold
    that has least_pixels or more; its score is the largest probability inside."""
    parts, _ = ndimage.label(probability >= threshold, np.ones((3, 3)))
    found = []
    for number, place in enumerate(ndimage.find_objects(parts), 1):
        inside = parts[place] == number
        if inside.sum() >= least_pixels:
            rows, columns = place
            score = float(probability[place][inside].max())
            found.append([columns.start, rows.start, columns.stop, rows.stop, float(label), score])
    return _detections(found)


def expert_file(
    expert: Expert | Callable[[NDArray[Any]], Detections],
    images: Iterable[tuple[str, NDArray[Any]]],
    classes: Sequence[str],
    path: Path,
) -> Path:
    """Run an expert once over images (id, pixels) and write what it found as COCO JSON, for `ExpertLabels.read`."""
    seen: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image, pixels in images:
        seen.append({"id": image, "height": int(pixels.shape[0]), "width": int(pixels.shape[1])})
        found = expert(pixels)
        for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()):
            x0, y0, x1, y1 = box
            annotations.append(
                {"id": len(annotations), "image_id": image, "category_id": label, "score": score,
                 "bbox": [x0, y0, x1 - x0, y1 - y0]}
            )  # fmt: skip
    categories = [{"id": k, "name": name} for k, name in enumerate(classes)]
    content = {"images": seen, "annotations": annotations, "categories": categories}
    part = path.with_suffix(".part")
    part.write_text(json.dumps(content))
    part.replace(path)
    return path


Row = tuple[str, str, float, list[float]]


def _json_rows(path: Path) -> tuple[list[Row], list[str]]:
    try:
        content = json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path} is not JSON: {error}") from None
    whole = isinstance(content, dict)
    try:
        images = content["images"] if whole else []
        entries = content["annotations"] if whole else content
        names = {c["id"]: c["name"] for c in content["categories"]} if whole else {}
        ids = {i["id"]: Path(i["file_name"]).stem if "file_name" in i else str(i["id"]) for i in images}
        rows = [
            (ids[e["image_id"]] if whole else str(e["image_id"]), str(names.get(e["category_id"], e["category_id"])),
             float(e["score"]), [float(v) for v in e["bbox"]])
            for e in entries
        ]  # fmt: skip
        if any(len(row[3]) != 4 for row in rows):
            raise ValueError("a bbox has not four numbers")
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{path} is not COCO JSON of detections ({error!r}); needed: image_id, category_id, score, "
            "bbox [x, y, w, h]"
        ) from None
    return rows, list(ids.values())


def _csv_rows(path: Path) -> tuple[list[Row], list[str]]:
    with path.open(newline="") as file:
        table = csv.DictReader(file)
        missing = [c for c in COLUMNS if c not in (table.fieldnames or ())]
        if missing:
            raise InputError(f"{path} has no column {', '.join(missing)}; needed: {', '.join(COLUMNS)}")
        rows, seen = [], []
        for number, row in enumerate(table, 2):
            seen.append(row["image_id"])
            if not any(row[c] and row[c].strip().upper() not in ("NA", "NAN") for c in ("x", "y", "w", "h")):
                continue  # looked at, nothing found
            try:
                box = [float(row[c]) for c in ("x", "y", "w", "h")]
                rows.append((row["image_id"], row["label"], float(row["score"]), box))
            except (TypeError, ValueError):
                raise InputError(
                    f"{path}: line {number} holds {dict(row)}; score, x, y, w, h must be numbers"
                ) from None
    return rows, seen


def _class(label: str, classes: Sequence[str]) -> int | None:
    if label in classes:
        return list(classes).index(label)
    return int(label) if label.isdigit() and int(label) < len(classes) else None


def _detections(rows: list[list[float]]) -> Detections:
    table = torch.tensor(rows, dtype=torch.float32).reshape(-1, 6)
    return Detections(table[:, :4], table[:, 4].long(), table[:, 5])
