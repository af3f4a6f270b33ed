"""What the relational context, the semantic-aware loss and mixing add to a mean-teacher step.

    python benchmarks/grounded_teacher_cost.py [--rounds 8]

Generated images (4 of 224 x 224, 12 squares of three classes each), the detector of configs/detection, one thread. The
arms take turns within a round, so that a busy machine hits all alike; printed is the median over the rounds of the
ratio to the mean-teacher step of the same round. Labels are given (the boxes that were drawn), so that every arm has
the same number of them: a teacher's forward is made in each, its answer replaced.
"""

from __future__ import annotations

import argparse
import statistics
import time
import types
from dataclasses import replace

import torch
from torch import Tensor

from medkd.data.targets import Detections
from medkd.detection.detectors.options import FasterRCNNOptions, TinyOptions
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
ARMS: dict[str, MethodOptions] = {
    "mean teacher": DetectionMeanTeacherOptions(threshold=0.5),
    "with context and loss": GroundedTeacherOptions(threshold=0.5, static=NO_STATIC, mixing=0.0),
    "with mixing too": GroundedTeacherOptions(threshold=0.5, static=NO_STATIC, mixing=0.5),
}


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
        view = {"strong": image, "matrix": torch.eye(3).repeat(BATCH, 1, 1)}
        return Batch(image, None, tuple("abcd"), draws, view)


def started(options: MethodOptions, steps: int) -> PhaseRun:
    def network(_: int | str) -> torch.nn.Module:
        with seeded("cost"):
            return DETECTOR.build(2, 3, CLASSES)

    stream = Squares()
    phase = Phase("adapt", options.build, steps, {"unlabelled": stream}, Optimizer(lr=0.001))
    run = PhaseRun(phase, network, Task(), Runtime(torch.device("cpu")), 0, Tracker(), {}, {}, 0)
    teacher = run.method.teacher.network  # type: ignore[union-attr]
    predict = teacher.predict  # type: ignore[union-attr]

    def answer(_: torch.nn.Module, images: Tensor, threshold: float) -> list[Detections]:
        predict(images, threshold)
        return [replace(d) for d in stream.found]

    teacher.predict = types.MethodType(answer, teacher)  # type: ignore[union-attr]
    return run


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    torch.set_num_threads(1)
    runs = {name: started(options, rounds + 2) for name, options in ARMS.items()}
    ratios: dict[str, list[float]] = {name: [] for name in runs}
    for number in range(rounds + 2):
        cpu = {}
        for name, run in runs.items():
            before = time.process_time()
            run.train_one()
            cpu[name] = time.process_time() - before
        for name in runs if number >= 2 else ():  # the first two warm up and fill the banks
            ratios[name].append(cpu[name] / cpu["mean teacher"])
        last = cpu
    for name, found in ratios.items():
        middle = statistics.median(found)
        print(f"{name}: {middle:.3f} of the step ({min(found):.3f} to {max(found):.3f}); last {last[name]:.2f} s")


if __name__ == "__main__":
    main()
