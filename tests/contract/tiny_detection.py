"""The setting every registered detection method is trained in here: pictures of 48 x 48 with a bright and a dim square,
and a detector of some thousand weights (tests/detection/tiny_sites.py)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from tiny_setting import CPU, Interrupted, started
from tiny_sites import SIDE, detector
from torch import Tensor, nn

from medkd.config.registry import methods
from medkd.data.targets import Target
from medkd.engine.fit import PhaseRun
from medkd.engine.method import Batch
from medkd.engine.options import MethodOptions, Optimizer
from medkd.engine.phases import Phase
from medkd.engine.randomness import Draws

NAMES = sorted(name for name, options in methods().items() if "detection" in options.tasks)
STREAMS = ("labelled", "unlabelled")
EAGER = {"threshold": 0.1, "decay": 0.9}  # an untrained detector is sure of nothing

SETTINGS: dict[str, dict[str, Any]] = {
    "supervised_detection": {"average": 0.9},  # with it there is a teacher to look at
    "detection_mean_teacher": EAGER,
    "static_labels": {"static": {"threshold": 0.1, "until": float("inf")}},
    "irg": {**EAGER, "every": 1, "width": 16},
    "pets": {**EAGER, "period": 10},  # an exchange is a test of its own
    "lpld": {**EAGER, "every": 1, "foreground_min": 0.5},
    "grounded_teacher": {**EAGER, "static": {"threshold": 0.1}, "mixing": 1.0, "crop_side": 8, "bank": 5},
}
"""What differs from a method's defaults, and why. A method that is not here is tested as it is."""


def options(name: str, **values: Any) -> MethodOptions:
    """The method's options in this suite; keywords that the method does not have are left out."""
    kind = methods()[name]
    known = {key: value for key, value in values.items() if key in kind.model_fields}
    return kind(**{**SETTINGS.get(name, {}), **known})


@dataclass(frozen=True)
class Score:
    """The mean of the deepest map on two fixed images: it tells any two networks apart."""

    primary: str = "score"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        raise AssertionError("a detector computes its own losses")

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        made: Any = network
        training = network.training
        network.eval()
        with torch.no_grad():
            score = float(made.feature_map(Stream("labelled", 2).batch(10**6).image).mean())
        network.train(training)
        return {"score": score}


@dataclass(frozen=True)
class Stream:
    """Weak and strong views with one matrix. `labels`: what the unlabelled stream carries. `stop`: the step that raises
    Interrupted. `edit`: a last change."""

    name: str
    size: int = 2
    labels: Any = None
    stop: int | None = None
    edit: Callable[[Batch, int], Batch] = field(default=lambda batch, step: batch)

    def batch(self, global_step: int) -> Batch:
        if global_step == self.stop:
            raise Interrupted
        draws = Draws((0, global_step, self.name), self.size)
        corner = draws.integers("corner", SIDE - 20, 2, 2).tolist()
        weak = 0.2 * draws.uniform("noise", 3, SIDE, SIDE)
        targets = []
        for image, places in zip(weak, corner):
            for value, (x, y) in zip((0.9, 0.5), places):
                image[:, y : y + 16, x : x + 16] = value
            boxes = torch.tensor([[x, y, x + 16.0, y + 16.0] for x, y in places])
            targets.append(Target(boxes, torch.arange(2)))
        strong = (weak * draws.uniform("gain", 3, 1, 1, low=0.5, high=1.5)).clamp(0, 1)
        matrix = torch.eye(3, dtype=torch.float64).repeat(self.size, 1, 1)
        ids = tuple(f"{self.name}{global_step}_{row}" for row in range(self.size))
        label: Any = tuple(targets) if self.name == "labelled" else self.labels
        return self.edit(Batch(weak, label, ids, draws, {"strong": strong, "matrix": matrix}), global_step)


def network(which: int | str) -> nn.Module:
    return detector()


def streams(**values: Any) -> dict[str, Stream]:
    return {name: Stream(name, **values) for name in STREAMS}


def phase(name: str, steps: int = 4, data: Mapping[str, Any] | None = None, given: Any = None, **values: Any) -> Phase:
    """The method as the only phase. given: its options, if they are not those of the suite."""
    made = given or options(name)
    data = data or streams()
    rest = {"optimizer": Optimizer(lr=0.01, weight_decay=0.0), "validate_every": 2} | values
    return Phase(name, made.build, steps, {n: data[n] for n in made.needs}, **rest)


def begun(made: Phase, **values: Any) -> PhaseRun:
    """The phase before its first step, to be stepped by hand."""
    return started(made, values.get("networks", network), task=Score(), runtime=values.get("runtime", CPU))
