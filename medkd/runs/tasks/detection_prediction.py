"""Detect in new images: a file or a folder in, boxes in the coordinates of each image out.

OUT/detections.json   COCO results: image_id, file_name, category_id, category, bbox, score
OUT/detections.csv    the same as corners
OUT/pictures/         the images with their detections (2-D)
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medkd.data.dataset import write_whole
from medkd.data.image_files import find_images
from medkd.data.targets import Detections
from medkd.detection.detect import detect_file
from medkd.detection.model import DetectionModel
from medkd.errors import InputError
from medkd.inference.model_folder import Model
from medkd.runs.tasks.protocol import Predicted, Progress

SHOWN = 0.5  # score above which a detection is drawn
THRESHOLD = 0.05


@dataclass
class Detected(Predicted):
    """images: how many were looked at; boxes: how many were found in them."""

    images: int = 0
    boxes: int = 0

    def in_words(self) -> str:
        if self.kept:
            return f"{self.kept[0]} is kept (it existed): --overwrite detects anew"
        return f"images: {self.images} looked at, {len(self.refused)} refused; boxes: {self.boxes} above {THRESHOLD}"


def predict(
    model: Model, source: Path, out: Path, device: torch.device, overwrite: bool, progress: Progress | None
) -> Detected:
    """Write the detections of every image of `source`. An image that cannot be read costs one line, not the others."""
    description = model.description
    assert isinstance(description, DetectionModel)
    files = find_images(source, description.preprocess.dims)
    done, rows = Detected(), []
    if (out / "detections.json").exists() and not overwrite:
        done.kept.append(out / "detections.json")
        return done
    network = model.network.to(device)
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for number, file in enumerate(files):
        try:
            found, pixels = detect_file(
                network, file, len(description.channels), description.preprocess, device, THRESHOLD
            )
            rows.append((file.name, found))
            done.images, done.boxes = done.images + 1, done.boxes + len(found)
            if description.preprocess.dims == 2:
                from medkd.report.detections import Boxed, detection_sheet

                kept = (found.scores > SHOWN).numpy()
                boxes, labels, scores = (v.numpy()[kept] for v in (found.boxes, found.labels, found.scores))
                shown = Boxed(file.name, pixels, found=boxes, labels=labels, scores=scores)
                picture = out / "pictures" / f"{file.stem}.png"
                picture.write_bytes(detection_sheet([shown], description.classes, panel=5.0))
                done.written.append(picture)
        except InputError as error:
            done.refused.extend(error.problems)
        if progress:
            progress(number + 1, len(files))
    done.written += write_detections(out, rows, description.classes)
    return done


def write_detections(folder: Path, rows: Sequence[tuple[str, Detections]], classes: Sequence[str]) -> list[Path]:
    """Write detections.json and detections.csv of (file name, detections in its coordinates)."""
    results, table = [], io.StringIO()
    writer = csv.writer(table, lineterminator="\n")
    axes = ("x", "y") if not rows or rows[0][1].boxes.shape[1] == 4 else ("x", "y", "z")
    writer.writerow(["file", "class", "score", *(f"{a}0" for a in axes), *(f"{a}1" for a in axes)])
    for number, (name, found) in enumerate(rows, 1):
        for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist()):
            low, high = box[: len(axes)], box[len(axes) :]
            results.append({
                "image_id": number, "file_name": name, "category_id": label + 1, "category": classes[label],
                "bbox": [round(v, 3) for v in (*low, *(h - v for h, v in zip(high, low)))], "score": round(score, 5),
            })  # fmt: skip
            writer.writerow([name, classes[label], f"{score:.5f}", *(f"{v:.3f}" for v in box)])
    write_whole(folder / "detections.json", json.dumps(results, indent=0))
    write_whole(folder / "detections.csv", table.getvalue())
    return [folder / "detections.json", folder / "detections.csv"]
