"""Detections of three arms side by side on a few held-out images, from finished run folders."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from medkd.claims.blood_cell_data import CLASSES
from medkd.claims.blood_cells import START, BloodCells
from medkd.claims.runner import Run, run_folder
from medkd.data.detection_dataset import DetectionDataset, read_detection_dataset
from medkd.data.image_cases import ImageCase
from medkd.data.image_files import read_image
from medkd.report.detections import Boxed, detection_sheet

SHOWN = {START: "source-only", "mean_teacher": "mean teacher", "gt_expert": "GT with the expert"}
SCORE = 0.5  # above which a detection is drawn


def draw_detections(experiment: BloodCells, folder: Path) -> None:
    """Write FOLDER/detections.png once the three runs of seed 0 have scored the held-out images here."""
    work = folder / "work"
    tables = {
        words: run_folder(experiment, Run(arm, 0), work) / "evaluation" / "test" / "detections.csv"
        for arm, words in SHOWN.items()
    }
    data = work / "data" / f"{experiment.target}_held_out"
    picture = folder / "detections.png"
    if not all(path.exists() for path in tables.values()) or not data.exists():
        return
    if picture.exists() and picture.stat().st_mtime > max(path.stat().st_mtime for path in tables.values()):
        return
    dataset = read_detection_dataset(data)
    found = {words: _read(path) for words, path in tables.items()}
    shown = []
    for case in chosen(dataset):
        truth, pixels, name = dataset.truth(case), read_image(case.image), case.image.name
        for words, boxes in found.items():
            mine = boxes.get(f"images/{name}", np.zeros((0, 6)))
            shown.append(Boxed(
                case.id[:8], pixels, truth.boxes, truth.labels, mine[:, :4], mine[:, 4].astype(int), mine[:, 5], words
            ))  # fmt: skip
    picture.write_bytes(detection_sheet(shown, CLASSES, columns=len(SHOWN), panel=2.6))


def chosen(dataset: DetectionDataset) -> list[ImageCase]:
    """The first, middle and last of the images with a white cell."""
    rare = CLASSES.index("WBC")
    cases = [case for case in dataset.select("test") if rare in dataset.truth(case).labels]
    return [cases[i] for i in sorted({0, len(cases) // 2, len(cases) - 1})] if cases else []


def _read(path: Path) -> dict[str, np.ndarray]:
    """File -> (N, 6): box, label, score of what is to be drawn."""
    rows: dict[str, list[list[float]]] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if float(row["score"]) > SCORE:
                box = [float(row[k]) for k in ("x0", "y0", "x1", "y1")]
                rows.setdefault(row["file"], []).append([*box, CLASSES.index(row["class"]), float(row["score"])])
    return {name: np.array(found) for name, found in rows.items()}
