"""Everything a recipe can name. These unions are the registry: jump from a name in a recipe to its class from here."""

from __future__ import annotations

from typing import Annotated, get_args

from pydantic import Field

from medkd.detection.baseline_options import IrgOptions, LpldOptions, PetsOptions
from medkd.detection.options import DistilDetectionOptions, SupervisedDetectionOptions
from medkd.detection.source_free_options import (
    AdaBNOptions,
    DetectionMeanTeacherOptions,
    GroundedTeacherOptions,
    StaticLabelsOptions,
)
from medkd.distill.ofa_options import OfaOptions
from medkd.distill.options import DistilOptions
from medkd.distill.tgeo_kd_options import TgeoKdOptions
from medkd.engine.options import MethodOptions, SupervisedOptions
from medkd.networks.options import NetworkOptions
from medkd.segmentation.options import (
    BcpOptions,
    CpsOptions,
    LabelledCopyPasteOptions,
    MeanTeacherOptions,
    SelfTrainingOptions,
    UaMtOptions,
    UniMatchOptions,
)

MethodUnion = Annotated[
    SupervisedOptions
    | LabelledCopyPasteOptions
    | SelfTrainingOptions
    | MeanTeacherOptions
    | UaMtOptions
    | CpsOptions
    | UniMatchOptions
    | BcpOptions
    | TgeoKdOptions
    | DistilOptions
    | OfaOptions
    | SupervisedDetectionOptions
    | DistilDetectionOptions
    | AdaBNOptions
    | StaticLabelsOptions
    | DetectionMeanTeacherOptions
    | GroundedTeacherOptions
    | IrgOptions
    | PetsOptions
    | LpldOptions,
    Field(discriminator="kind"),
]

__all__ = ["MethodUnion", "NetworkOptions", "methods"]


def methods() -> dict[str, type[MethodOptions]]:
    """Name of a method in a recipe -> its options class, which says paper, tasks and needs and builds the method."""
    union, _ = get_args(MethodUnion)
    return {options.model_fields["kind"].default: options for options in get_args(union)}
