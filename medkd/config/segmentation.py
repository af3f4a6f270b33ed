"""The recipe of segmentation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt, model_validator

from medkd.config.recipe import PhaseOptions, Recipe, StreamOptions
from medkd.config.registry import NetworkOptions
from medkd.data.augment_options import AugmentOptions
from medkd.data.options import Preprocess
from medkd.networks.options import BasicUNetOptions
from medkd.segmentation.options import SupervisedLoss

if TYPE_CHECKING:
    from torch import nn


class ScanStreamOptions(StreamOptions):
    """One data stream: how many samples a step, and how they are augmented."""

    augment: AugmentOptions = AugmentOptions()
    foreground: float = Field(0.0, ge=0, le=1, description="share of the batch centred on foreground (labelled only)")


class HeldOutOptions(ScanStreamOptions):
    """Labelled training patients that the `labelled` stream does not read, for a controller trained on data that the
    student is not. Never patients of the validation or test split."""

    size: PositiveInt = 4
    patients: PositiveInt = Field(1, description="how many labelled training patients are held out")


class SegmentationPhase(PhaseOptions):
    """A stage may train a network of its own, such as a teacher before its student."""

    network: NetworkOptions | None = Field(None, description="of this phase, where it is not the recipe's")


class SegmentationRecipe(Recipe):
    """`medkd config schema` prints this as JSON schema."""

    task: Literal["segmentation"] = "segmentation"
    preprocess: Preprocess = Preprocess()
    network: NetworkOptions = BasicUNetOptions()
    loss: SupervisedLoss = SupervisedLoss()
    labelled: ScanStreamOptions = ScanStreamOptions()
    unlabelled: ScanStreamOptions = ScanStreamOptions()
    held_out: HeldOutOptions = HeldOutOptions()
    phases: tuple[SegmentationPhase, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _streams(self) -> SegmentationRecipe:
        if self.unlabelled.foreground:
            raise ValueError("unlabelled.foreground has no effect: unlabelled samples have no foreground; remove it")
        for phase in self.phases:
            if phase.method.kind == "bcp" and self.labelled.size != self.unlabelled.size:
                raise ValueError(
                    f"labelled.size is {self.labelled.size} and unlabelled.size {self.unlabelled.size}; "
                    f"{phase.method.kind} pairs one with the other, so they must be equal"
                )
        return self

    def streams(self) -> dict[str, ScanStreamOptions]:
        return {"labelled": self.labelled, "unlabelled": self.unlabelled, "held_out": self.held_out}

    @property
    def score(self) -> str:
        return "Dice"

    def network_options(self, phase: int) -> NetworkOptions:
        return self.phases[phase].network or self.network

    def build_network(self, phase: int, channels: int, classes: int) -> nn.Module:
        p = self.preprocess
        return self.network_options(phase).build(p.dims, channels, classes, p.patch)
