"""Score a detector on the held-out cases of a dataset, in the coordinates of the stored images.

FOLDER/detections.json  detections.csv  cases.csv  summary.json  overlays.png  report.html
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from medkd.data.dataset import write_whole
from medkd.data.detection_dataset import DetectionDataset, read_detection_dataset
from medkd.data.image_cases import ImageCase
from medkd.data.image_preprocess import read_pixels
from medkd.detection.detect import detect_file
from medkd.detection.model import DetectionModel
from medkd.detection.task import THRESHOLD
from medkd.errors import raise_all
from medkd.inference.model_folder import Model
from medkd.metrics.bootstrap import Interval
from medkd.metrics.boxes import IOUS as COCO_IOUS
from medkd.metrics.boxes import BoxScores, box_scores
from medkd.metrics.froc import HitRule, centre_errors, froc, image_auc
from medkd.metrics.matching import ImageBoxes, image_boxes
from medkd.runs.tasks.detection_prediction import write_detections
from medkd.runs.tasks.protocol import Evaluation, Progress, Table

if TYPE_CHECKING:
    from medkd.report.detections import Boxed

PICTURED = 6
RULES = {2: HitRule("iou", 0.2), 3: HitRule("iou", 0.1)}
"""When FROC counts a lesion as found, by dimensions; its name stands beside every number."""
ALARMS = 1.0  # false alarms an image at which the table gives the sensitivity
SHOWN = 0.5  # score above which a detection is drawn


@dataclass(frozen=True)
class Scored:
    """One image: what was found and what is true, in pixels of the stored image; in 3-D in mm where they are known."""

    case: ImageCase
    boxes: ImageBoxes


def evaluate(
    model: Model,
    data: Path,
    split: str,
    folder: Path,
    weights: str | None,
    device: torch.device,
    pictures: bool,
    progress: Progress | None,
) -> Evaluation:
    """Average precision and FROC of every class with intervals over patients, or over images where patients are not
    known."""
    description = model.description
    assert isinstance(description, DetectionModel)
    dataset = read_detection_dataset(data)
    _check(description, dataset, split)
    network, cases, scored, rows = model.network.to(device), dataset.select(split), [], []
    for number, case in enumerate(cases):
        found, _ = detect_file(
            network, case.image, len(description.channels), description.preprocess, device, THRESHOLD
        )
        truth, mm = dataset.truth(case), scale(case)
        unit = case.patient if dataset.unit == "patient" else case.id
        scored.append(Scored(case, image_boxes(
            case.id, unit, truth.boxes * mm, truth.labels, found.boxes.numpy() * mm, found.labels, found.scores,
            case.dims,
        )))  # fmt: skip
        rows.append((case.image.relative_to(dataset.root).as_posix(), found))
        if progress:
            progress(number + 1, len(cases))
    ious = COCO_IOUS if description.preprocess.dims == 2 else (0.1, 0.25, 0.5)
    scores = box_scores([one.boxes for one in scored], dataset.classes, dataset.unit, ious)
    folder.mkdir(parents=True, exist_ok=True)
    write_detections(folder, rows, dataset.classes)
    write_whole(folder / "cases.csv", _table(scored, dataset))
    known = {case.spacing is not None and case.dims == 3 for case in cases} == {True}
    summary = {
        "split": split, "weights": weights or "shipped", "coordinates": "mm" if known else "stored pixels",
        **_summary(scores),
        "froc": froc_summary([one.boxes for one in scored], dataset, RULES[description.preprocess.dims]),
    }  # fmt: skip
    write_whole(folder / "summary.json", json.dumps(summary, indent=1))
    table = summary_table(summary)
    if pictures:
        _report(folder, dataset, scored, summary, table)
    return Evaluation(folder, scored, summary, table)


def scale(case: ImageCase) -> np.ndarray:
    """(2 * D,): mm a voxel for each corner of a box of a volume; 1 in 2-D, and where nobody knows them."""
    known = case.spacing if case.dims == 3 else None
    return np.array(2 * (known or (1.0,) * case.dims), np.float32)


def froc_summary(images: list[ImageBoxes], dataset: DetectionDataset, rule: HitRule) -> dict[str, Any]:
    """Sensitivity of each class, and of all together, at each level of false alarms an image."""

    def one(label: int | None) -> dict[str, Any]:
        part = images if label is None else [image.only(label) for image in images]
        curve, apart = froc(part, dataset.classes, rule, dataset.unit), centre_errors(part, rule)
        return {
            "lesions": curve.lesions,
            "at": {f"{level:g}": _plain(value) for level, value in curve.at.items()},
            "most": dict(zip(("sensitivity", "false_alarms"), map(_number, curve.most))),
            "image_auc": _number(image_auc(part)),
            "centre_error_median": _number(float(np.median(apart)) if len(apart) else np.nan),
        }

    classes = {name: one(label) for label, name in enumerate(dataset.classes)}
    return {"rule": rule.name, "classes": classes, "all_classes": one(None)}


def summary_table(summary: dict[str, Any]) -> Table:
    """Headers and rows for the console and the page; brackets hold the 95 % interval."""
    ious = list(summary["mean_over_classes"]["at"])
    shown = ious[:1] if len(ious) > 3 else ious
    found = summary["froc"]
    level = f"{ALARMS:g}"
    headers = [
        "class", "true boxes", *(f"AP{round(100 * float(iou))}" for iou in shown), "AP",
        f"found at {level} false alarm an image, {found['rule']}",
    ]  # fmt: skip
    groups = {**summary["classes"], "mean": summary["mean_over_classes"]}
    rows = [
        [name, str(g.get("boxes", "")), *(_cell(g["at"][iou]) for iou in shown), _cell(g["ap"]),
         _cell(found["classes"].get(name, found["all_classes"])["at"][level])]
        for name, g in groups.items()
    ]  # fmt: skip
    return headers, rows


def _cell(value: dict[str, Any]) -> str:
    if value["value"] is None:
        return "no true box"
    interval = "" if value["low"] is None else f" [{value['low']:.3f}, {value['high']:.3f}]"
    return f"{value['value']:.3f}{interval}"


def _plain(one: Interval) -> dict[str, float | None]:
    return {name: _number(v) for name, v in (("value", one.value), ("low", one.low), ("high", one.high))}


def _number(value: float) -> float | None:
    """JSON has no NaN."""
    return None if np.isnan(value) else float(value)


def _summary(scores: BoxScores) -> dict[str, Any]:
    def group(one: Any) -> dict[str, Any]:
        return {"ap": _plain(one.ap), "at": {str(iou): _plain(v) for iou, v in one.at.items()}}

    return {
        "images": scores.images, "unit": scores.unit, "units": scores.units, "resamples": scores.resamples,
        "mean_over_classes": group(scores),
        "classes": {name: {"boxes": one.boxes, **group(one)} for name, one in scores.classes.items()},
    }  # fmt: skip


def _table(scored: list[Scored], dataset: DetectionDataset) -> str:
    """One row an image and class: true boxes, and detections above SHOWN."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["case", "patient", "class", "true_boxes", f"detections_above_{SHOWN}"])
    for one in scored:
        for label, name in enumerate(dataset.classes):
            part = one.boxes.only(label)
            writer.writerow([one.case.id, one.case.patient, name, len(part.truth), int((part.scores > SHOWN).sum())])
    return out.getvalue()


def _report(
    folder: Path, dataset: DetectionDataset, scored: list[Scored], summary: dict[str, Any], table: Table
) -> None:
    from medkd.report.detections import detection_sheet
    from medkd.report.page import Page

    page = Page("Evaluation", f"{summary['images']} {summary['split']} images, {summary['units']} {summary['unit']}s")
    page.table(*table, f"95 % intervals over {summary['unit']}s. A class without a true box has no AP; the "
               "last row of the last column counts all classes together.")  # fmt: skip
    page.facts({"weights": summary["weights"], "detections count from score": THRESHOLD,
                "hit rule of FROC": summary["froc"]["rule"]})  # fmt: skip
    flat = [one for one in scored if one.case.dims == 2]
    if flat:
        picked = [flat[i] for i in np.linspace(0, len(flat) - 1, min(PICTURED, len(flat))).round().astype(int)]
        shown = [_boxed(one) for one in picked]
        picture = detection_sheet(shown, dataset.classes, columns=3, panel=3.0)
        (folder / "overlays.png").write_bytes(picture)
        page.section("Images")
        page.picture(picture, f"True boxes dashed, detections above {SHOWN} solid.", "images with boxes")
    page.write(folder / "report.html")


def _boxed(one: Scored) -> Boxed:
    from medkd.report.detections import Boxed

    b, kept = one.boxes, one.boxes.scores > SHOWN
    pixels = read_pixels(one.case.image)
    return Boxed(one.case.id, pixels, b.truth, b.truth_labels, b.boxes[kept], b.labels[kept], b.scores[kept])


def _check(description: DetectionModel, dataset: DetectionDataset, split: str) -> None:
    problems = []
    for name in ("classes", "channels"):
        theirs, ours = getattr(description, name), getattr(dataset, name)
        if theirs != ours:
            problems.append(f"the model's {name} are {theirs}, the dataset's {ours}; they must be the same")
    if not dataset.select(split):
        problems.append(f"the dataset has no {split} case")
    raise_all(problems)
