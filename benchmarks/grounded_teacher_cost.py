"""What Grounded Teacher adds to a mean-teacher step, and what that is beside a plain supervised step.

    OMP_NUM_THREADS=1 python benchmarks/grounded_teacher_cost.py [--rounds 30] [--json FILE]

Generated images (4 of 224 x 224, 12 squares of three classes each), the detector of configs/detection, one thread. The
arms take turns within a round, each round in another order, so that a busy machine hits all alike; printed is the
median over the rounds of the ratio of CPU seconds to the same round's mean-teacher (or supervised) step, with its 95 %
bootstrap interval over rounds. Labels are given (the boxes that were drawn), so that every arm has the same number of
them: a teacher's forward is made in each, its answer replaced. The matrix is given too, one that mixes most boxes.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import tempfile
import time
import types
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from medkd.claims.accounting import processor
from medkd.data.targets import Detections, Target
from medkd.detection.detectors.options import FasterRCNNOptions, TinyOptions
from medkd.detection.options import SupervisedDetectionOptions
from medkd.detection.source_free_options import DetectionMeanTeacherOptions, GroundedTeacherOptions, StaticLabels
from medkd.engine.fit import PhaseRun
from medkd.engine.method import Batch
from medkd.engine.options import MethodOptions, Optimizer
from medkd.engine.phases import Phase
from medkd.engine.randomness import Draws, seeded
from medkd.engine.runtime import Runtime
from medkd.engine.tracking import Tracker

SIDE, BATCH, BOXES, CLASSES = 224, 4, 12, 3
DETECTOR = FasterRCNNOptions(
    backbone=TinyOptions(features=(32, 64, 128), pyramid=64), anchor_scale=4, head=256, proposals=300, roi_samples=128
)
NO_STATIC = StaticLabels(weight=0.0)
BASE, PLAIN = "mean teacher", "supervised"
MATRIX = [[0.6, 0.2, 0.2], [0.2, 0.6, 0.2], [0.3, 0.3, 0.4]]  # two classes of the majority, whose boxes are mixed
WARM_UP = 3


def arms(matrix: Path) -> dict[str, MethodOptions]:
    """Name -> method. Mixing is that of the recipes: each image with probability 0.5."""
    given: dict[str, Any] = {"threshold": 0.5, "source_matrix": str(matrix), "blend": 1.0}
    return {
        PLAIN: SupervisedDetectionOptions(),
        BASE: DetectionMeanTeacherOptions(threshold=0.5),
        "context and loss": GroundedTeacherOptions(**given, static=NO_STATIC, mixing=0.0),
        "context, loss and mixing": GroundedTeacherOptions(**given, static=NO_STATIC),
        "mean teacher, static labels": DetectionMeanTeacherOptions(threshold=0.5, static=StaticLabels(threshold=0.5)),
        "all, static labels": GroundedTeacherOptions(**given, static=StaticLabels(threshold=0.5)),
    }


PAIRS = (
    ("context and loss", BASE),
    ("context, loss and mixing", BASE),
    ("all, static labels", "mean teacher, static labels"),
    (BASE, PLAIN),
    ("context, loss and mixing", PLAIN),
    ("all, static labels", PLAIN),
)


class Task:
    primary = "none"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        raise AssertionError("the methods measured here read no label")

    def evaluate(self, network: torch.nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"none": 0.0}


class Squares:
    """The boxes of the last batch are in `found`."""

    def __init__(self) -> None:
        self.found: list[Detections] = []

    def batch(self, step: int) -> Batch:
        draws = Draws((0, step, "unlabelled"), BATCH)
        image = 0.2 * draws.uniform("noise", 3, SIDE, SIDE)
        low = draws.integers("corner", SIDE - 40, BOXES, 2).float()
        side = 20 + draws.integers("side", 20, BOXES, 2).float()
        labels = draws.integers("label", CLASSES, BOXES)
        boxes = torch.cat([low, low + side], 2)
        for picture, its, of in zip(image, boxes.int().tolist(), labels.tolist()):
            for (x0, y0, x1, y1), k in zip(its, of):
                picture[:, y0:y1, x0:x1] = 0.3 + 0.2 * k
        self.found = [Detections(b, k, torch.full((BOXES,), 0.9)) for b, k in zip(boxes, labels)]
        label = tuple(Target(b, k) for b, k in zip(boxes, labels))
        view = {"strong": image, "matrix": torch.eye(3).repeat(BATCH, 1, 1)}
        return Batch(image, cast(Any, label), tuple("abcd"), draws, view)


def started(options: MethodOptions, steps: int) -> PhaseRun:
    def network(_: int | str) -> torch.nn.Module:
        with seeded("cost"):
            return DETECTOR.build(2, 3, CLASSES)

    stream = Squares()
    phase = Phase("adapt", options.build, steps, {"unlabelled": stream, "labelled": stream}, Optimizer(lr=0.001))
    run = PhaseRun(phase, network, Task(), Runtime(torch.device("cpu")), 0, Tracker(), {}, {}, 0)
    method: Any = run.method
    for teacher in (getattr(method, "teacher", None), getattr(method, "source", None)):
        if teacher is not None:
            answer_instead(teacher.network, stream)
    return run


def answer_instead(network: Any, stream: Squares) -> None:
    """The network looks at the images; what it says is what was drawn."""
    predict = network.predict

    def answer(_: torch.nn.Module, images: Tensor, threshold: float) -> list[Detections]:
        predict(images, threshold)
        return [replace(d) for d in stream.found]

    network.predict = types.MethodType(answer, network)


def measured(rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a step of each arm, a number a round."""
    with tempfile.TemporaryDirectory() as folder:
        matrix = Path(folder) / "matrix.json"
        matrix.write_text(json.dumps(MATRIX))
        runs = {name: started(options, rounds + WARM_UP) for name, options in arms(matrix).items()}
    found: dict[str, list[float]] = {name: [] for name in runs}
    order = list(runs)
    for number in range(rounds + WARM_UP):
        random.Random(number).shuffle(order)
        for name in order:
            before = time.process_time()
            runs[name].train_one()
            if number >= WARM_UP:  # the first ones fill the banks
                found[name].append(time.process_time() - before)
    return found


def ratio(one: list[float], other: list[float]) -> tuple[float, float, float]:
    """The median of the paired ratios, and its 95 % bootstrap interval over rounds."""
    ratios = np.array(one) / np.array(other)
    draws = np.random.default_rng(0).choice(ratios, (2000, len(ratios)))
    low, high = np.percentile(np.median(draws, 1), [2.5, 97.5])
    return float(np.median(ratios)), float(low), float(high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    before = os.getloadavg()[0]
    found = measured(arguments.rounds)
    load = [round(v, 1) for v in (before, os.getloadavg()[0])]
    result = {
        "rounds": arguments.rounds, "processor": processor(), "cores": os.cpu_count(), "load before and after": load,
        "torch": torch.__version__, "median CPU seconds": {n: round(float(np.median(v)), 4) for n, v in found.items()},
        "ratios": {f"{a} / {b}": [round(v, 4) for v in ratio(found[a], found[b])] for a, b in PAIRS},
        "seconds": {name: [round(v, 4) for v in values] for name, values in found.items()},
    }  # fmt: skip
    for text, (middle, low, high) in cast("dict[str, list[float]]", result["ratios"]).items():
        print(f"{text}: {middle:.3f} ({low:.3f} to {high:.3f})")
    print(f"load {load[0]} to {load[1]} on {os.cpu_count()} cores")
    if arguments.json:
        arguments.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
