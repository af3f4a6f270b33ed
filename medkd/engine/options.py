"""Typed options of the engine. No torch at import: `medkd methods` and `medkd config` answer without it."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt

from medkd.engine import schedules

if TYPE_CHECKING:
    import torch

    from medkd.engine.method import Method
    from medkd.engine.phases import Networks


class Options(BaseModel):
    """Base of all options: an unknown key is an error, values do not change after reading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class MethodOptions(Options):
    """Base of all method options, of every room; the class variables are what `medkd methods` prints."""

    kind: str
    paper: ClassVar[str]
    summary: ClassVar[str]
    tasks: ClassVar[tuple[str, ...]]
    """The tasks it serves: it is refused in a recipe of another."""
    needs: ClassVar[tuple[str, ...]] = ("labelled", "unlabelled")
    turns: ClassVar[tuple[str, ...]] = ("student",)
    candidates: ClassVar[tuple[str, ...]] = ("student",)
    teacher_needed: ClassVar[bool] = False
    """Whether it asks for a trained network: `networks("teacher")`."""
    pairs: ClassVar[bool] = False
    """Whether the even and odd samples of a batch are paired: its size is then even."""
    compiles: ClassVar[bool] = True
    """Whether torch.compile may be on; not with hooks inside the network or second derivatives."""

    def problems(self, task: str) -> list[str]:
        """What of these options makes no sense for a task that the method serves, a line each."""
        return []

    def build(self, networks: Networks) -> Method:
        """The method around networks(0), networks(1), ..."""
        raise NotImplementedError(f"{type(self).__name__} does not implement build")


class SupervisedOptions(MethodOptions):
    kind: Literal["supervised"] = "supervised"
    average: float | None = Field(None, gt=0, lt=1, description="decay of a moving average of the weights")

    paper: ClassVar[str] = "labelled-only training"
    summary: ClassVar[str] = "the task's own loss on the labelled images alone"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "classification")
    needs: ClassVar[tuple[str, ...]] = ("labelled",)
    candidates: ClassVar[tuple[str, ...]] = ("student", "average")

    def build(self, networks: Networks) -> Method:
        from medkd.engine.supervised import Supervised

        return Supervised(networks(0), self)


class LearningRate(Options):
    """Factor on the base learning rate as a function of the updates completed in the phase."""

    kind: Literal["constant", "poly", "staircase", "cosine"] = "constant"
    power: float = 0.9
    every: PositiveInt = 2500
    factor: float = Field(0.1, gt=0, le=1)
    warmup: int = Field(0, ge=0)

    def __call__(self, step: int, total: int) -> float:
        match self.kind:
            case "poly":
                return schedules.poly(step, total, self.power)
            case "staircase":
                return schedules.staircase(step, self.every, self.factor)
            case "cosine":
                return schedules.cosine(step, total, self.warmup)
        return 1.0


class Optimizer(Options):
    """SGD or Adam(W) with a learning-rate schedule and an optional bound on the gradient norm."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: PositiveFloat = 0.01
    momentum: float = Field(0.9, ge=0, lt=1)
    nesterov: bool = False
    weight_decay: float = Field(1e-4, ge=0)
    schedule: LearningRate = LearningRate()
    clip: PositiveFloat | None = None

    def build(self, parameters: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
        import torch

        match self.kind:
            case "sgd":
                return torch.optim.SGD(
                    parameters, self.lr, self.momentum, nesterov=self.nesterov, weight_decay=self.weight_decay
                )
            case "adam":
                return torch.optim.Adam(parameters, self.lr, weight_decay=self.weight_decay)
        return torch.optim.AdamW(parameters, self.lr, weight_decay=self.weight_decay)


class RuntimeOptions(Options):
    """Where and in which precision training runs."""

    device: str = Field("auto", description="auto (CUDA if present, else CPU), cpu, cuda, cuda:1")
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    threads: PositiveInt | None = Field(None, description="CPU threads; resume is bit-exact only at the same number")
    channels_last: bool = Field(False, description="convolutions in channels-last order: faster on recent GPUs")
    compile: bool = Field(False, description="torch.compile the student: slower to start, faster to run")
