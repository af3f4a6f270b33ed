"""A tiny detector and unlabelled images of a new site, for the tests of the methods: bright squares and dim discs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medkd.detection.detectors.options import FasterRCNNOptions, TinyOptions
from medkd.engine.fit import PhaseRun
from medkd.engine.method import Batch, StepContext
from medkd.engine.options import Optimizer
from medkd.engine.phases import Phase
from medkd.engine.randomness import Draws, seeded
from medkd.engine.runtime import Runtime
from medkd.engine.tracking import Tracker

CPU = Runtime(torch.device("cpu"))
SMALL = FasterRCNNOptions(
    backbone=TinyOptions(features=(8, 12), pyramid=8), anchor_scale=4, head=16, proposals=40, rpn_samples=64,
    roi_samples=64, detections=10,
)  # fmt: skip
SIDE = 48


class Unreadable:
    """Labels that nobody may read."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"labels of the target were read: {name}")

    def __getitem__(self, rows: Any) -> Any:
        raise AssertionError("labels of the target were read")


@dataclass(frozen=True)
class Site:
    """The unlabelled stream: weak and strong views with one matrix."""

    size: int = 2
    label: Any = None

    def batch(self, global_step: int) -> Batch:
        draws = Draws((0, global_step, "unlabelled"), self.size)
        corner = draws.integers("corner", SIDE - 20, 2, 2).tolist()
        weak = 0.2 * draws.uniform("noise", 3, SIDE, SIDE)
        for image, places in zip(weak, corner):
            for value, (x, y) in zip((0.9, 0.5), places):
                image[:, y : y + 16, x : x + 16] = value
        strong = (weak * draws.uniform("gain", 3, 1, 1, low=0.5, high=1.5)).clamp(0, 1)
        matrix = torch.eye(3, dtype=torch.float64).repeat(self.size, 1, 1)
        ids = tuple(f"case{i}" for i in range(self.size))
        return Batch(weak, self.label, ids, draws, {"strong": strong, "matrix": matrix})


class NoScore:
    primary = "score"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        raise AssertionError("no loss of the task is asked for here")

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"score": 0.0}


def detector(classes: int = 2, norm: str = "batch") -> nn.Module:
    """The same weights every time."""
    with seeded("tiny detector", classes):
        backbone = SMALL.backbone.model_copy(update={"norm": norm})
        made: Any = SMALL.model_copy(update={"backbone": backbone}).build(2, 3, classes)
    with torch.no_grad():
        # less background: untrained it finds things, all of one class
        made.roi_heads.box_predictor.cls_score.bias[0] -= 1.0
    return made


def started(options: Any, steps: int = 4, site: Site | None = None, classes: int = 2, **values: Any) -> PhaseRun:
    """A phase of the method before its first step."""
    phase = Phase(
        "adapt", options.build, steps, {"unlabelled": site or Site()}, Optimizer(lr=0.01, weight_decay=0.0), **values
    )
    return PhaseRun(phase, lambda _: detector(classes), NoScore(), CPU, 0, Tracker(), {}, {}, 0)


def context(step: int = 0, total: int = 4) -> StepContext:
    return StepContext(step, total, step, 0, NoScore())


def tensors(module: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in module.state_dict().items() if isinstance(v, Tensor)}


def same(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
