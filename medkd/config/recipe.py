"""A recipe: everything that determines a run, except the data itself."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from medkd.config.registry import MethodUnion, NetworkOptions
from medkd.data.augment_options import AugmentOptions
from medkd.data.options import Preprocess
from medkd.engine.options import Optimizer, Options, RuntimeOptions
from medkd.networks.options import BasicUNetOptions
from medkd.segmentation.options import SupervisedLoss


class StreamOptions(Options):
    """One data stream: how many samples a step, and how they are augmented."""

    size: PositiveInt = 12
    augment: AugmentOptions = AugmentOptions()
    foreground: float = Field(0.0, ge=0, le=1, description="share of the batch centred on foreground (labelled only)")


class PhaseOptions(Options):
    """One stage of training and what it hands to the next."""

    name: str
    method: MethodUnion
    steps: PositiveInt
    optimizer: Optimizer = Optimizer()
    candidate: str = Field("student", description="which of the method's candidates is selected and handed over")
    hand_over: Literal["best", "last"] = "best"
    carry_optimizer: bool = Field(False, description="start from the optimiser state of the phase before")
    validate_every: PositiveInt = 100
    accumulate: PositiveInt = Field(1, description="micro-batches a step")

    @model_validator(mode="after")
    def _candidate(self) -> PhaseOptions:
        if self.candidate not in self.method.candidates:
            allowed = ", ".join(self.method.candidates)
            raise ValueError(f"candidate is {self.candidate!r}; {self.method.kind} has: {allowed}")
        return self


class Recipe(Options):
    """`medkd config schema` prints this as JSON schema."""

    task: Literal["segmentation"] = "segmentation"
    data: str | None = Field(None, description="the dataset folder that `medkd prepare` wrote")
    init: str | None = Field(None, description="a model folder whose weights training starts from")
    seed: int = Field(0, ge=0)
    preprocess: Preprocess = Preprocess()
    network: NetworkOptions = BasicUNetOptions()
    loss: SupervisedLoss = SupervisedLoss()
    labelled: StreamOptions = StreamOptions()
    unlabelled: StreamOptions = StreamOptions()
    phases: tuple[PhaseOptions, ...] = Field(min_length=1)
    ship: Literal["best", "last"] = Field("best", description="which weights of the last phase go into model/")
    save_every: PositiveInt = 100
    runtime: RuntimeOptions = RuntimeOptions()

    @field_validator("phases")
    @classmethod
    def _names(cls, phases: tuple[PhaseOptions, ...]) -> tuple[PhaseOptions, ...]:
        names = [phase.name for phase in phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phase names are {names}; each must be different")
        return phases

    @model_validator(mode="after")
    def _sizes(self) -> Recipe:
        if self.unlabelled.foreground:
            raise ValueError("unlabelled.foreground has no effect: unlabelled samples have no foreground; remove it")
        for phase in self.phases:
            needs = phase.method.needs
            for name, stream in (("labelled", self.labelled), ("unlabelled", self.unlabelled)):
                if name in needs and stream.size % (2 * phase.accumulate) and phase.method.pairs:
                    raise ValueError(
                        f"{name}.size is {stream.size}; {phase.method.kind} pairs the samples of a batch: give "
                        f"a multiple of {2 * phase.accumulate} (2 x phases.{phase.name}.accumulate)"
                    )
                if name in needs and stream.size % phase.accumulate:
                    raise ValueError(
                        f"{name}.size is {stream.size}; it must be a multiple of phases.{phase.name}.accumulate, "
                        f"{phase.accumulate}"
                    )
            if phase.method.kind == "bcp" and self.labelled.size != self.unlabelled.size:
                raise ValueError(
                    f"labelled.size is {self.labelled.size} and unlabelled.size {self.unlabelled.size}; "
                    f"{phase.method.kind} pairs one with the other, so they must be equal"
                )
        return self
