"""Which COCO evaluation: pycocotools against faster-coco-eval, on the same random boxes.

    python benchmarks/box_metrics.py

Prints the best of 5 times of each and the largest difference of their precisions.
"""

from __future__ import annotations

import contextlib
import copy
import io
import time
from typing import Any

import numpy as np


def boxes(images: int = 150, classes: int = 3, seed: int = 0) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """True boxes, and jittered copies with scores of two digits."""
    rng = np.random.default_rng(seed)
    truth: dict[str, Any] = {
        "images": [{"id": i + 1, "width": 575, "height": 575} for i in range(images)],
        "annotations": [],
        "categories": [{"id": k + 1, "name": str(k)} for k in range(classes)],
    }
    found = []
    for image in range(1, images + 1):
        for _ in range(rng.integers(0, 20)):
            (x, y), (w, h), kind = rng.uniform(0, 400, 2), rng.uniform(40, 150, 2), int(rng.integers(1, classes + 1))
            row = {"image_id": image, "category_id": kind, "bbox": [x, y, w, h], "area": w * h, "iscrowd": 0}
            truth["annotations"].append(row | {"id": len(truth["annotations"]) + 1})
            for _ in range(rng.integers(0, 4)):
                near = np.maximum(np.array([x, y, w, h]) + rng.normal(0, 12, 4), 1).tolist()
                score = float(np.round(rng.random(), 2))
                found.append({"image_id": image, "category_id": kind, "bbox": near, "score": score})
    return truth, found


def run(name: str, truth: dict[str, Any], found: list[dict[str, Any]]) -> tuple[np.ndarray, float]:
    """Precision (T, recalls, K, 1, limits) and seconds."""
    if name == "pycocotools":
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation
    else:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    with contextlib.redirect_stdout(io.StringIO()):
        start = time.perf_counter()
        data = COCO()
        data.dataset = copy.deepcopy(truth)
        data.createIndex()
        evaluation = Evaluation(data, data.loadRes(copy.deepcopy(found)), "bbox")
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.evaluate()
        evaluation.accumulate()
        seconds = time.perf_counter() - start
    return evaluation.eval["precision"], seconds


def main() -> None:
    truth, found = boxes()
    print(f"{len(truth['annotations'])} true boxes, {len(found)} found ones, {len(truth['images'])} images")
    results = {}
    for name in ("pycocotools", "faster-coco-eval"):
        runs = [run(name, truth, found) for _ in range(5)]
        results[name] = runs[0][0]
        print(f"{name}: {min(seconds for _, seconds in runs):.3f} s")
    difference = np.abs(results["pycocotools"] - results["faster-coco-eval"]).max()
    print(f"largest difference of a precision: {difference:.1e}")


if __name__ == "__main__":
    main()
