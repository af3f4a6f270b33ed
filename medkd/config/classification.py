"""The recipe of classification."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, PositiveInt

from medkd.classification.options import ClassificationLoss
from medkd.config.recipe import PhaseOptions, Recipe, StreamOptions
from medkd.data.augment_options import AugmentOptions
from medkd.data.image_options import ImagePreprocess
from medkd.networks.classifier_options import ClassifierOptions, TinyCNNOptions

if TYPE_CHECKING:
    from torch import nn


class ImageStreamOptions(StreamOptions):
    """One data stream: how many images a step, and how they are augmented."""

    size: PositiveInt = 32
    augment: AugmentOptions = AugmentOptions()


class HeldOutImageOptions(ImageStreamOptions):
    """Labelled training patients that the `labelled` stream does not read, for a controller trained on data that the
    student is not. Never patients of the validation or test split."""

    patients: PositiveInt = Field(20, description="how many labelled training patients are held out")


class ClassificationPhase(PhaseOptions):
    """A stage may train a network of its own, such as a teacher before its student."""

    network: ClassifierOptions | None = Field(None, description="of this phase, where it is not the recipe's")


class ClassificationRecipe(Recipe):
    """A classifier, the images it sees, and how it is trained."""

    task: Literal["classification"] = "classification"
    preprocess: ImagePreprocess = ImagePreprocess()
    network: ClassifierOptions = TinyCNNOptions()
    loss: ClassificationLoss = ClassificationLoss()
    select: Literal["balanced_accuracy", "auc"] = Field(
        "balanced_accuracy", description="the validation score that selects the checkpoint"
    )
    labelled: ImageStreamOptions = ImageStreamOptions()
    unlabelled: ImageStreamOptions = ImageStreamOptions()
    held_out: HeldOutImageOptions = HeldOutImageOptions()
    phases: tuple[ClassificationPhase, ...] = Field(min_length=1)

    def streams(self) -> dict[str, ImageStreamOptions]:
        return {"labelled": self.labelled, "unlabelled": self.unlabelled, "held_out": self.held_out}

    @property
    def score(self) -> str:
        return {"balanced_accuracy": "balanced accuracy", "auc": "AUC"}[self.select]

    def network_options(self, phase: int) -> ClassifierOptions:
        return self.phases[phase].network or self.network

    def build_network(self, phase: int, channels: int, classes: int) -> nn.Module:
        return self.network_options(phase).build(self.preprocess.dims, channels, classes)
