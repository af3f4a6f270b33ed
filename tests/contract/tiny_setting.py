"""The setting every registered method is trained in here: 32 x 32 images made on the fly, two foreground classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from medkd.config.registry import methods
from medkd.engine.fit import PhaseRun
from medkd.engine.method import Batch, Method, StepContext
from medkd.engine.options import MethodOptions, Optimizer
from medkd.engine.phases import Networks, Phase
from medkd.engine.randomness import Draws, generator, seeded
from medkd.engine.runtime import Runtime
from medkd.engine.teachers import EmaTeacher
from medkd.engine.tracking import Tracker
from medkd.networks.options import BasicUNetOptions
from medkd.segmentation.losses import DiceCE, DiceForm, full_resolution, one_hot, soft_dice_loss

NAMES = sorted(name for name, options in methods().items() if "segmentation" in options.tasks)
CPU = Runtime(torch.device("cpu"))
CLASSES, PIXELS, STREAMS = 3, 32, ("labelled", "unlabelled", "held_out")

SETTINGS: dict[str, dict[str, Any]] = {
    "supervised": {"average": 0.9},  # the moving average is off by default; with it there is a teacher to look at
    "mean_teacher": {"start": 0.0},  # the published recipe leaves the consistency out at first
    "ua_mt": {"passes": 2},  # eight make the suite slow
    "tgeo_kd": {"classes": 3},
    "distil": {"losses": [{"kind": "kd"}, {"kind": "attention_transfer", "student": "upcat_1", "teacher": "upcat_1"}]},
    "ofa": {"classes": 3},
    "unimatch": {"threshold": 0.0},  # an untrained network is nowhere confident
}
"""What differs from a method's defaults, and why. A method that is not here is tested as it is."""


def options(name: str, **values: Any) -> MethodOptions:
    """The method's options in this suite; keywords that the method does not have are left out."""
    kind = methods()[name]
    known = {key: value for key, value in values.items() if key in kind.model_fields}
    return kind(**{**SETTINGS.get(name, {}), **known})


def has(name: str, option: str) -> bool:
    return option in methods()[name].model_fields


@dataclass(frozen=True)
class Task:
    """The real loss; the score is the soft Dice on two fixed images, which tells any two networks apart."""

    form: DiceForm = "batch_squared"
    primary: str = "dice"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        return DiceCE(self.form)(output, label)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        batch = Stream("labelled", 2).batch(10**6)
        training = network.training
        network.eval()
        with torch.no_grad():
            probabilities = full_resolution(network(batch.image), batch.image).float().softmax(1)
        network.train(training)
        return {"dice": 1 - float(soft_dice_loss(probabilities, one_hot(batch.labels, CLASSES)))}


class Interrupted(Exception):
    """Stands for a kill."""


@dataclass(frozen=True)
class Stream:
    """Two squares, one of each class, on noise. `stop`: the step that raises Interrupted. `edit`: a last change."""

    name: str
    size: int = 4
    stop: int | None = None
    edit: Callable[[Batch, int], Batch] = field(default=lambda batch, step: batch)

    def batch(self, global_step: int) -> Batch:
        if global_step == self.stop:
            raise Interrupted
        draws = Draws((0, global_step, self.name), self.size)
        corner = draws.integers("corner", PIXELS // 2, 2, 2)
        label = torch.zeros(self.size, PIXELS, PIXELS, dtype=torch.int64)
        for row in range(self.size):
            for k, (y, x) in enumerate(corner[row].tolist()):
                label[row, y : y + 8, x : x + 8] = k + 1
        image = 0.5 * label[:, None] + 0.3 * draws.normal("pixels", torch.empty(self.size, 1, PIXELS, PIXELS))
        ids = tuple(f"{self.name}{global_step}_{row}" for row in range(self.size))
        return self.edit(Batch(image, None if self.name == "unlabelled" else label, ids, draws), global_step)


def network(norm: str = "batch", dropout: float = 0.1) -> Networks:
    """Networks of some thousand weights. `instance` has no batch statistics."""

    def make(index: int | str) -> nn.Module:
        with seeded("network", index):
            made = BasicUNetOptions(features=(4, 4, 8, 8, 8), norm=norm, dropout=(dropout,))
            return made.build(2, 1, CLASSES, (PIXELS, PIXELS))

    return make


def streams(**values: Any) -> dict[str, Stream]:
    return {name: Stream(name, **values) for name in STREAMS}


def phase(name: str, steps: int = 4, data: Mapping[str, Any] | None = None, given: Any = None, **values: Any) -> Phase:
    """The method as the only phase. given: its options, if they are not those of the suite."""
    made = given or options(name)
    data = data or streams()
    rest = {"optimizer": Optimizer(lr=0.05, weight_decay=0.0), "validate_every": 2} | values
    return Phase(name, made.build, steps, {n: data[n] for n in made.needs}, **rest)


def started(made: Phase, networks: Networks | None = None, **values: Any) -> PhaseRun:
    """The phase before its first step, to be stepped by hand."""
    task, runtime = values.get("task", Task()), values.get("runtime", CPU)
    return PhaseRun(made, networks or network(), task, runtime, 0, Tracker(), {}, {}, 0)


def context(step: int = 0, total: int = 4, task: Task | None = None) -> StepContext:
    return StepContext(step, total, step, 0, task or Task())


def backward(method: Method, ctx: StepContext, data: Mapping[str, Any] | None = None) -> dict[str, Tensor]:
    """Losses and gradients of every turn, without a step; returns the gradients by parameter name."""
    data = data or streams()
    method.zero_grad(set_to_none=True)
    for turn in dict.fromkeys(method.turns):
        batch = {name: data[name].batch(ctx.global_step) for name in method.reads[turn]}
        with seeded("step", turn):
            method.step(turn, batch, ctx).loss.backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def trainable(method: Method) -> dict[str, nn.Parameter]:
    owned = {id(p) for turn in method.turns for p in method.trainable(turn)}
    return {name: p for name, p in method.named_parameters() if id(p) in owned}


def readers(method: Method, stream: str) -> set[str]:
    """The names of the trainable weights whose turns read the stream."""
    owned = {id(p) for turn in method.turns if stream in method.reads[turn] for p in method.trainable(turn)}
    return {name for name, p in method.named_parameters() if id(p) in owned}


def teachers(method: Method) -> list[EmaTeacher]:
    return [module for module in method.modules() if isinstance(module, EmaTeacher)]


def constant_teachers(method: Method) -> list[nn.Module]:
    """The outermost modules inside a method none of whose weights any turn trains, moving averages apart."""
    own = set(map(id, trainable(method).values())) | {id(p) for t in teachers(method) for p in t.parameters()}
    found: list[nn.Module] = []
    inside: set[int] = set()
    for module in method.modules():
        weights = list(module.parameters())
        if weights and id(module) not in inside and not any(id(p) in own for p in weights):
            found.append(module)
            inside |= set(map(id, module.modules()))
    return found


def weights(module: nn.Module) -> dict[str, Tensor]:
    """A copy of everything in the state that is a tensor."""
    return {k: v.detach().clone() for k, v in module.state_dict().items() if isinstance(v, Tensor)}


def same(a: Any, b: Any) -> bool:
    """Whether two trees of values are equal bit for bit."""
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, Mapping):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def noise_instead(batch: Batch, step: int) -> Batch:
    """The same batch with other images: what a stream must change if a loss reads it."""
    image = torch.randn(batch.image.shape, generator=generator("other", step, batch.case_ids[0]))
    return replace(batch, image=image)
