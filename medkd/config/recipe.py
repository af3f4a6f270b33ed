"""A recipe: everything that determines a run, except the data itself. Here is what the recipes of all tasks share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, PositiveInt, field_validator, model_validator

from medkd.config.registry import MethodUnion, methods
from medkd.engine.options import Optimizer, Options, RuntimeOptions

if TYPE_CHECKING:
    from torch import nn


class StreamOptions(Options):
    """One data stream: how many samples a step. A task adds how they are cut and augmented."""

    size: PositiveInt = 12


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
    """A task derives its recipe from this: its network, preprocessing, streams and loss."""

    task: str
    data: str | None = Field(None, description="the dataset folder that `medkd prepare` wrote")
    init: str | None = Field(None, description="a model folder whose weights training starts from")
    teacher: str | None = Field(None, description="a model folder, for methods that need a trained teacher")
    seed: int = Field(0, ge=0)
    phases: tuple[PhaseOptions, ...] = Field(min_length=1)
    ship: Literal["best", "last"] = Field("best", description="which weights of the last phase go into model/")
    save_every: PositiveInt = 100
    runtime: RuntimeOptions = RuntimeOptions()

    def streams(self) -> Mapping[str, StreamOptions]:
        """The data streams by the name a method reads them under."""
        raise NotImplementedError(f"{type(self).__name__} does not implement streams")

    @property
    def score(self) -> str:
        """What the validation score that selects the checkpoint is called in words."""
        raise NotImplementedError(f"{type(self).__name__} does not implement score")

    def network_options(self, phase: int) -> Any:
        """The options of the network that the phase trains."""
        raise NotImplementedError(f"{type(self).__name__} does not implement network_options")

    def build_network(self, phase: int, channels: int, classes: int) -> nn.Module:
        """The network that the phase trains, on a dataset of so many channels and classes."""
        raise NotImplementedError(f"{type(self).__name__} does not implement build_network")

    @field_validator("phases")
    @classmethod
    def _names(cls, phases: tuple[PhaseOptions, ...]) -> tuple[PhaseOptions, ...]:
        names = [phase.name for phase in phases]
        if len(set(names)) < len(names):
            raise ValueError(f"phase names are {names}; each must be different")
        return phases

    @model_validator(mode="after")
    def _hand_over(self) -> Recipe:
        for number, (before, after) in enumerate(zip(self.phases, self.phases[1:])):
            if before.becomes == "student" and self.network_options(number) != self.network_options(number + 1):
                raise ValueError(
                    f"phases.{after.name} trains another network than phases.{before.name}, which hands its student "
                    f"over to it; give both the same network, or phases.{before.name}.becomes: teacher"
                )
        return self

    @model_validator(mode="after")
    def _methods(self) -> Recipe:
        made = self.teacher is not None
        streams = self.streams()
        for phase in self.phases:
            needs = phase.method.needs
            if self.task not in phase.method.tasks:
                mine = ", ".join(sorted(name for name, options in methods().items() if self.task in options.tasks))
                raise ValueError(
                    f"phases.{phase.name}.method is {phase.method.kind}, which serves {', '.join(phase.method.tasks)}; "
                    f"the recipe's task is {self.task}, for which there are: {mine}"
                )
            if problems := phase.method.problems(self.task):
                raise ValueError("; ".join(f"phases.{phase.name}.method.{problem}" for problem in problems))
            if phase.method.teacher_needed and not made:
                raise ValueError(
                    f"phases.{phase.name} needs a trained teacher; give teacher: MODEL, or becomes: teacher in a phase "
                    "before it"
                )
            made = made or phase.becomes == "teacher"
            if self.runtime.compile and not phase.method.compiles:
                raise ValueError(f"runtime.compile is on, which {phase.method.kind} does not allow; set it to false")
            if missing := [need for need in needs if need not in streams]:
                raise ValueError(
                    f"phases.{phase.name}.method {phase.method.kind} reads {', '.join(missing)}; the streams of "
                    f"{self.task} are {', '.join(streams)}"
                )
            for name in needs:
                size = streams[name].size
                if size % (2 * phase.accumulate) and phase.method.pairs:
                    raise ValueError(
                        f"{name}.size is {size}; {phase.method.kind} pairs the samples of a batch: give "
                        f"a multiple of {2 * phase.accumulate} (2 x phases.{phase.name}.accumulate)"
                    )
                if size % phase.accumulate:
                    raise ValueError(
                        f"{name}.size is {size}; it must be a multiple of phases.{phase.name}.accumulate, "
                        f"{phase.accumulate}"
                    )
        return self
