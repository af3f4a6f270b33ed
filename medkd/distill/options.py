"""Typed options of Distil and of the losses it can add up. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from medkd.engine.options import MethodOptions, Options

if TYPE_CHECKING:
    from torch import nn

    from medkd.distill.methods.distil import Shapes
    from medkd.engine.method import Method
    from medkd.engine.phases import Networks


class LossOptions(Options):
    """A loss between what student and teacher make of one image. `build` makes it for the tensors it will get."""

    weight: float = Field(1.0, ge=0)
    ramp: float = Field(0.0, ge=0, le=1, description="share of the phase over which the weight rises from 0")

    reads: ClassVar[Literal["logits", "labels", "uniform"]] = "logits"
    """What it gets beside the two tensors: nothing, the labels, or numbers in [0, 1) of its `mask_shape`."""

    def build(self, shapes: Shapes) -> nn.Module:
        raise NotImplementedError(f"{type(self).__name__} does not implement build")


class FeatureLossOptions(LossOptions):
    """Compares the outputs of two modules, by their dotted paths; without paths the logits."""

    student: str | None = Field(None, description="path of the student's module, such as upcat_1; none: its logits")
    teacher: str | None = Field(None, description="path of the teacher's module; none: its logits")


class KdOptions(LossOptions):
    kind: Literal["kd"] = "kd"
    temperature: PositiveFloat = 4.0
    standardise: bool = False

    def build(self, shapes: Shapes) -> nn.Module:
        from medkd.distill.losses.hinton import HintonKDLoss

        return HintonKDLoss(self.temperature, self.standardise)


class DkdOptions(LossOptions):
    kind: Literal["dkd"] = "dkd"
    ramp: float = Field(1 / 12, ge=0, le=1, description="published: the first 20 of 240 epochs")
    alpha: float = 1.0
    beta: float = 8.0
    temperature: PositiveFloat = 4.0

    reads: ClassVar[Literal["logits", "labels", "uniform"]] = "labels"

    def build(self, shapes: Shapes) -> nn.Module:
        from medkd.distill.losses.dkd import DKDLoss

        return DKDLoss(shapes.classes, self.alpha, self.beta, self.temperature)


class DistOptions(LossOptions):
    kind: Literal["dist"] = "dist"
    beta: float = 1.0
    gamma: float = 1.0
    temperature: PositiveFloat = 1.0

    def build(self, shapes: Shapes) -> nn.Module:
        from medkd.distill.losses.dist import DISTLoss

        return DISTLoss(shapes.classes, self.beta, self.gamma, self.temperature)


class BpkdOptions(LossOptions):
    """Without weights of its own the body and edge parts have those of the normalisation."""

    kind: Literal["bpkd"] = "bpkd"
    kernel: PositiveInt = Field(7, description="width of the border, in voxels")
    normalisation: Literal["paper", "stable"] | None = None

    reads: ClassVar[Literal["logits", "labels", "uniform"]] = "labels"

    def build(self, shapes: Shapes) -> nn.Module:
        from medkd.distill.losses.bpkd import BPKDLoss

        return BPKDLoss(shapes.classes, shapes.dims, self.kernel, self.normalisation)


class CwdOptions(FeatureLossOptions):
    kind: Literal["cwd"] = "cwd"
    weight: float = Field(5.0, ge=0)
    temperature: PositiveFloat = 1.0

    def build(self, shapes: Shapes) -> nn.Module:
        from medkd.distill.losses.cwd import CWDLoss

        channels = (shapes.student, shapes.teacher) if shapes.student != shapes.teacher else None
        return CWDLoss(self.temperature, channels, shapes.dims)


class FitNetsOptions(FeatureLossOptions):
    kind: Literal["fitnets"] = "fitnets"
    weight: float = Field(100.0, ge=0)

    def build(self, shapes: Shapes) -> nn.Module:
        from medkd.distill.losses.fitnets import FitNetLoss

        return FitNetLoss(shapes.student, shapes.teacher, shapes.dims)


class AttentionTransferOptions(FeatureLossOptions):
    kind: Literal["attention_transfer"] = "attention_transfer"
    weight: float = Field(1000.0, ge=0)
    power: float = Field(2.0, ge=1)

    def build(self, shapes: Shapes) -> nn.Module:
        from medkd.distill.methods.distil import OneLayer

        return OneLayer(self.power)


class MgdOptions(FeatureLossOptions):
    kind: Literal["mgd"] = "mgd"
    ratio: float = Field(0.65, ge=0, lt=1)
    mask: Literal["spatial", "channel"] = "spatial"

    reads: ClassVar[Literal["logits", "labels", "uniform"]] = "uniform"

    def build(self, shapes: Shapes) -> nn.Module:
        from medkd.distill.losses.mgd import MGDLoss

        return MGDLoss(shapes.student, shapes.teacher, shapes.dims, self.ratio, self.mask)


LossUnion = Annotated[
    KdOptions
    | DkdOptions
    | DistOptions
    | BpkdOptions
    | CwdOptions
    | FitNetsOptions
    | AttentionTransferOptions
    | MgdOptions,
    Field(discriminator="kind"),
]


class DistilOptions(MethodOptions):
    """Needs a teacher: a phase before that `becomes: teacher`, or `teacher: MODEL`."""

    kind: Literal["distil"] = "distil"
    losses: tuple[LossUnion, ...] = Field((KdOptions(),), min_length=1)
    label_weight: float = Field(1.0, ge=0, description="weight of the task's loss on the labels")
    dry_size: PositiveInt = Field(64, description="side of the empty image that is passed once to learn the shapes")

    paper: ClassVar[str] = "Hinton et al., arXiv 1503.02531, and the losses of docs/methods/distillation_losses.md"
    summary: ClassVar[str] = "a student learns from labels and from a frozen teacher, by a list of losses"
    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    needs: ClassVar[tuple[str, ...]] = ("labelled",)
    teacher_needed: ClassVar[bool] = True
    compiles: ClassVar[bool] = False  # it reads features through hooks

    def build(self, networks: Networks) -> Method:
        from medkd.distill.methods.distil import Distil

        return Distil(networks(0), networks("teacher"), self)
