"""What a line says of a detector: average precision, FROC of one class, and the precision and recall of an expert."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from medkd.claims.hidden_boxes import counted
from medkd.claims.stain_expert import white_cells
from medkd.data.detection_dataset import Boxes, DetectionDataset
from medkd.data.image_files import read_image
from medkd.data.targets import Detections
from medkd.metrics.froc import HitRule, froc
from medkd.metrics.matching import image_boxes
from medkd.runs.tasks.protocol import Evaluation

RARE, MEASURED = "WBC", ("RBC", "WBC")
RULE = HitRule("iou", 0.5)


def scores(evaluation: Evaluation, classes: Sequence[str]) -> dict[str, Any]:
    """AP and AP50 of each class with intervals over images, their mean over MEASURED, FROC of RARE."""
    summary = evaluation.summary
    groups = {
        name: {"boxes": one["boxes"], "ap": one["ap"]["value"], "ap50": one["at"]["0.5"]["value"],
               "ap50_interval": [one["at"]["0.5"]["low"], one["at"]["0.5"]["high"]]}
        for name, one in summary["classes"].items()
    }  # fmt: skip
    mean = {f"m{what}": sum(groups[name][what] for name in MEASURED) / len(MEASURED) for what in ("ap", "ap50")}
    only = [case.boxes.only(classes.index(RARE)) for case in evaluation.cases]
    curve = froc(only, classes, RULE, "image")
    return {
        "images": summary["images"],
        "classes": groups,
        **mean,
        "froc": {
            "rule": curve.rule,
            "at": {str(level): [known(v.value), known(v.low), known(v.high)] for level, v in curve.at.items()},
            "most": list(curve.most),
        },
    }


def expert_scores(
    dataset: DetectionDataset,
    said: Mapping[str, Detections] | None = None,
    truth: Mapping[str, Boxes] | None = None,
) -> dict[str, Any]:
    """Precision and recall at IoU 0.5 of the stain expert's white cells: asked of the test images, or, where `said`
    is what it said, judged by `truth`."""
    cases = [c for c in dataset.cases if c.id in truth] if truth is not None else dataset.select("test")
    label, right, given, true = dataset.classes.index(RARE), 0, 0, 0
    for case in cases:
        found = white_cells(read_image(case.image), label) if said is None else said[case.id]
        boxes = truth[case.id] if truth is not None else dataset.truth(case)
        one = image_boxes(
            case.id, case.id, boxes.boxes, boxes.labels, found.boxes.numpy(), found.labels.numpy(), found.scores.numpy()
        )
        r, g, t = counted([one], label, 0.0, 0.5)
        right, given, true = right + r, given + g, true + t
    return {
        "images": len(cases),
        "found": given,
        "true": true,
        "precision": round(right / given, 4) if given else None,
        "recall": round(right / true, 4) if true else None,
    }


def known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else round(float(value), 4)
