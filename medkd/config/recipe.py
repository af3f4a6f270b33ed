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


class HeldOutOptions(StreamOptions):
    """Labelled training patients that the `labelled` stream does not read, for a controller trained on data that the
    student is not. Never patients of the validation or test split."""

    size: PositiveInt = 4
    patients: PositiveInt = Field(1, description="how many labelled training patients are held out")


class PhaseOptions(Options):
    """One stage of training and what it hands to the next."""

    name: str
    method: MethodUnion
    steps: PositiveInt
    optimizer: Optimizer = Optimizer()
    optimizers: dict[str, Optimizer] = Field({}, description="of single turns, such as controller; others as above")
    candidate: str = Field("student", description="which of the method's candidates is selected and handed over")
    hand_over: Literal["best", "last"] = "best"
    becomes: Literal["student", "teacher"] = Field("student", description="what the candidate is in the next phases")
    carry_optimizer: bool = Field(False, description="start from the optimiser state of the phase before")
    validate_every: PositiveInt = 100
    accumulate: PositiveInt = Field(1, description="micro-batches a step")

    @model_validator(mode="after")
    def _candidate(self) -> PhaseOptions:
        if self.candidate not in self.method.candidates:
            allowed = ", ".join(self.method.candidates)
            raise ValueError(f"candidate is {self.candidate!r}; {self.method.kind} has: {allowed}")
        unknown = sorted(self.optimizers.keys() - set(self.method.turns))
        if unknown:
            allowed = ", ".join(self.method.turns)
            raise ValueError(f"optimizers names {', '.join(unknown)}; {self.method.kind} has the turns: {allowed}")
        return self


class Recipe(Options):
    """`medkd config schema` prints this as JSON schema."""

    task: Literal["segmentation"] = "segmentation"
    data: str | None = Field(None, description="the dataset folder that `medkd prepare` wrote")
    init: str | None = Field(None, description="a model folder whose weights training starts from")
    teacher: str | None = Field(None, description="a model folder, for methods that need a trained teacher")
    seed: int = Field(0, ge=0)
    preprocess: Preprocess = Preprocess()
    network: NetworkOptions = BasicUNetOptions()
    loss: SupervisedLoss = SupervisedLoss()
    labelled: StreamOptions = StreamOptions()
    unlabelled: StreamOptions = StreamOptions()
    held_out: HeldOutOptions = HeldOutOptions()
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
        made = self.teacher is not None
        for phase in self.phases:
            needs = phase.method.needs
            if phase.method.teacher_needed and not made:
                raise ValueError(
                    f"phases.{phase.name} needs a trained teacher; give teacher: MODEL, or becomes: teacher in a phase "
                    "before it"
                )
            made = made or phase.becomes == "teacher"
            if self.runtime.compile and not phase.method.compiles:
                raise ValueError(f"runtime.compile is on, which {phase.method.kind} does not allow; set it to false")
            for name, stream in self.streams().items():
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

    def streams(self) -> dict[str, StreamOptions]:
        """The data streams by the name a method reads them under."""
        return {"labelled": self.labelled, "unlabelled": self.unlabelled, "held_out": self.held_out}
