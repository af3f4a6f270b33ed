"""Typed options of the losses that Distil can add up: what each compares, and for which tasks. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import BeforeValidator, Field, PositiveFloat, PositiveInt, model_validator

from medkd.engine.options import Options

if TYPE_CHECKING:
    from torch import Tensor, nn

    from medkd.distill.methods.compared import Compared

LOGITS = ""
"""The path of a network's logits."""

Reads = Literal["nothing", "labels", "uniform", "bank"]
Paths = Annotated[tuple[str, ...], BeforeValidator(lambda given: (given,) if isinstance(given, str) else given)]
"""One path, or a list of them."""


class LossOptions(Options):
    """A loss between what student and teacher make of one image. `build` makes it for the tensors it will get."""

    kind: str
    weight: float = Field(1.0, ge=0)
    ramp: float = Field(0.0, ge=0, le=1, description="share of the phase over which the weight rises from 0")

    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "classification", "detection")
    """Where it makes sense: it is refused in a recipe of another task, and `why` says why."""
    why: ClassVar[str] = ""
    reads: ClassVar[Reads] = "nothing"
    """What it gets beside the tensors: the labels, numbers in [0, 1) of its `mask_shape`, or the rows of a bank."""
    takes: ClassVar[Literal["any", "maps", "vectors"]] = "any"
    """maps: (B, C, *S) with an axis at least. vectors: (B, C); maps are averaged over their positions first."""
    same_axes: ClassVar[bool] = True
    """Whether both tensors must have as many axes."""
    same_size: ClassVar[bool] = False
    """Whether both maps must be of one size."""
    listed: ClassVar[bool] = False
    """Whether it takes lists of tensors."""
    alone: ClassVar[str] = ""
    """Why it is not to be added to the loss on the labels without a word."""

    def paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The paths of the student's and of the teacher's tensors that it compares."""
        return (LOGITS,), (LOGITS,)

    def prepare(self, student: nn.Module, teacher: nn.Module) -> None:
        """What it changes of the student before the first step."""

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        """labels: (N,) the class of each training sample, for a loss that reads a bank."""
        raise NotImplementedError(f"{type(self).__name__} does not implement build")


class FeatureLossOptions(LossOptions):
    """Compares what two modules give, by their dotted paths (or get: `PATH:input`); without paths the logits."""

    student: str | None = Field(None, description="path of the student's module, such as upcat_1; none: its logits")
    teacher: str | None = Field(None, description="path of the teacher's module; none: its logits")

    def paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return (self.student or LOGITS,), (self.teacher or LOGITS,)


class StagesLossOptions(LossOptions):
    """Compares the outputs of pairs of modules; a single path is a list of one."""

    student: Paths = Field(min_length=1, description="paths of the student's modules")
    teacher: Paths = Field(min_length=1, description="paths of the teacher's modules, in the same order")

    takes: ClassVar[Literal["any", "maps", "vectors"]] = "maps"
    listed: ClassVar[bool] = True

    @model_validator(mode="after")
    def _pairs(self) -> StagesLossOptions:
        if len(self.student) != len(self.teacher):
            raise ValueError(
                f"{len(self.student)} paths of the student and {len(self.teacher)} of the teacher; they are compared "
                "in pairs: name as many"
            )
        return self

    def paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return self.student, self.teacher


class KdOptions(LossOptions):
    """Hinton: softened class probabilities."""

    kind: Literal["kd"] = "kd"
    temperature: PositiveFloat = 4.0
    standardise: bool = False

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.hinton import HintonKDLoss, require_confidence

        if self.standardise:
            require_confidence(pair.classes)
        return HintonKDLoss(self.temperature, self.standardise)


class BernoulliKdOptions(FeatureLossOptions):
    """Every sigmoid output on its own: the heads of one-stage detectors."""

    kind: Literal["bernoulli_kd"] = "bernoulli_kd"
    temperature: PositiveFloat = 1.0

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    why: ClassVar[str] = "it compares sigmoids, and the classes of this task exclude each other: use kd"

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.hinton import BernoulliKDLoss

        return BernoulliKDLoss(self.temperature)


class DkdOptions(LossOptions):
    """The target class, and the other classes among themselves."""

    kind: Literal["dkd"] = "dkd"
    ramp: float = Field(1 / 12, ge=0, le=1, description="published: the first 20 of 240 epochs")
    alpha: float = 1.0
    beta: float = 8.0
    temperature: PositiveFloat = 4.0

    reads: ClassVar[Reads] = "labels"

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.dkd import DKDLoss

        return DKDLoss(pair.classes, self.alpha, self.beta, self.temperature)


class DistOptions(LossOptions):
    """Correlations of the class probabilities."""

    kind: Literal["dist"] = "dist"
    beta: float = 1.0
    gamma: float = 1.0
    temperature: PositiveFloat = 1.0

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.dist import DISTLoss

        return DISTLoss(pair.classes, self.beta, self.gamma, self.temperature)


class PldOptions(LossOptions):
    """A ranking of the classes, the label first; the cross-entropy is in it."""

    kind: Literal["pld"] = "pld"
    teacher_temperature: PositiveFloat = 1.0

    tasks: ClassVar[tuple[str, ...]] = ("segmentation", "classification")
    why: ClassVar[str] = "it takes the place of the cross-entropy, which a detector computes itself"
    reads: ClassVar[Reads] = "labels"
    alone: ClassVar[str] = "contains the cross-entropy on the labels"

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.pld import PLDLoss

        return PLDLoss(pair.classes, self.teacher_temperature)


class BpkdOptions(LossOptions):
    """Class borders and bodies apart. Without weights of its own the two have those of the normalisation."""

    kind: Literal["bpkd"] = "bpkd"
    kernel: PositiveInt | tuple[PositiveInt, ...] = Field(
        7, description="width of the border in voxels, odd; one for each axis where voxels are not cubes"
    )
    normalisation: Literal["paper", "stable"] | None = None

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)
    why: ClassVar[str] = "it needs a label a voxel"
    reads: ClassVar[Reads] = "labels"

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.bpkd import BPKDLoss

        return BPKDLoss(pair.classes, pair.dims, self.kernel, self.normalisation)


class CwdOptions(FeatureLossOptions):
    """Where in space each channel is active."""

    kind: Literal["cwd"] = "cwd"
    weight: float = Field(5.0, ge=0)
    temperature: PositiveFloat = 1.0

    takes: ClassVar[Literal["any", "maps", "vectors"]] = "maps"
    same_size: ClassVar[bool] = True

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.cwd import CWDLoss

        mine, theirs = pair.channels
        return CWDLoss(self.temperature, (mine, theirs) if mine != theirs else None, pair.dims)


class FitNetsOptions(FeatureLossOptions):
    """Features, through a trained projector."""

    kind: Literal["fitnets"] = "fitnets"
    weight: float = Field(100.0, ge=0)

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.fitnets import FitNetLoss

        return FitNetLoss(*pair.channels, pair.dims)


class AttentionTransferOptions(StagesLossOptions):
    """Where features are strong."""

    kind: Literal["attention_transfer"] = "attention_transfer"
    weight: float = Field(1000.0, ge=0)
    power: float = Field(2.0, ge=1)

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.attention_transfer import AttentionTransferLoss

        return AttentionTransferLoss(self.power)


class MgdOptions(FeatureLossOptions):
    """The teacher's features, generated from masked ones of the student."""

    kind: Literal["mgd"] = "mgd"
    ratio: float = Field(0.65, ge=0, lt=1)
    mask: Literal["spatial", "channel"] = "spatial"

    reads: ClassVar[Reads] = "uniform"
    takes: ClassVar[Literal["any", "maps", "vectors"]] = "maps"
    same_size: ClassVar[bool] = True

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.mgd import MGDLoss

        return MGDLoss(*pair.channels, pair.dims, self.ratio, self.mask)


class ReviewKdOptions(StagesLossOptions):
    """Fused stages of the student, the deepest first, against the teacher's: published before their last activation."""

    kind: Literal["reviewkd"] = "reviewkd"
    ramp: float = Field(1 / 12, ge=0, le=1, description="published: the first 20 of 240 epochs")
    middle: PositiveInt | None = Field(
        None, description="channels while fusing; none: the deepest stage's, 512 at most"
    )

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.reviewkd import ReviewKDLoss

        mine, theirs = ([shape[1] for shape in side] for side in (pair.student, pair.teacher))
        return ReviewKDLoss(mine, theirs, pair.dims, self.middle)


class SpOptions(FeatureLossOptions):
    """Which samples of a batch are alike."""

    kind: Literal["sp"] = "sp"
    weight: float = Field(3000.0, ge=0)

    same_axes: ClassVar[bool] = False

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.similarity_preserving import SimilarityPreservingLoss

        return SimilarityPreservingLoss()


class RkdOptions(FeatureLossOptions):
    """Distances and angles between the samples of a batch."""

    kind: Literal["rkd"] = "rkd"
    distance_weight: float = Field(25.0, ge=0)
    angle_weight: float = Field(50.0, ge=0)

    takes: ClassVar[Literal["any", "maps", "vectors"]] = "vectors"
    same_axes: ClassVar[bool] = False

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.rkd import RKDLoss

        return RKDLoss(self.distance_weight, self.angle_weight)


class CrdOptions(FeatureLossOptions):
    """Each sample against its own and other embeddings in a bank of all training samples."""

    kind: Literal["crd"] = "crd"
    weight: float = Field(0.8, ge=0)
    dim: PositiveInt = Field(128, description="of the embeddings")
    negatives: PositiveInt = Field(16384, description="samples of other classes a sample is told from; at most all")
    temperature: PositiveFloat = 0.07
    momentum: float = Field(0.5, ge=0, lt=1, description="weight of the OLD embedding in the bank")

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    why: ClassVar[str] = "its negatives are images of another class, so an image must have one class"
    reads: ClassVar[Reads] = "bank"
    takes: ClassVar[Literal["any", "maps", "vectors"]] = "vectors"
    same_axes: ClassVar[bool] = False

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.crd import CRDLoss

        assert labels is not None
        return CRDLoss(*pair.channels, labels, self.dim, self.negatives, self.temperature, self.momentum)


class SimKdOptions(LossOptions):
    """The teacher's last map, through a projector that ships with the teacher's own head; needs no labels."""

    kind: Literal["simkd"] = "simkd"
    teacher: str = Field(description="path of the teacher's last map, after its ReLU and before the pooling")
    head: str = Field(description="path of the teacher's linear classifier, which the student gets")

    tasks: ClassVar[tuple[str, ...]] = ("classification",)
    why: ClassVar[str] = "it reuses a linear head behind a mean over the image"
    takes: ClassVar[Literal["any", "maps", "vectors"]] = "maps"
    alone: ClassVar[str] = "is published without a loss on the labels"

    def paths(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        return ("projector",), (self.teacher,)

    def prepare(self, student: nn.Module, teacher: nn.Module) -> None:
        from medkd.distill.methods.reuse_head import reuse_head

        reuse_head(student, teacher, self.head)

    def build(self, pair: Compared, labels: Tensor | None = None) -> nn.Module:
        from medkd.distill.losses.simkd import MatchedFeatures

        return MatchedFeatures()


LossUnion = Annotated[
    KdOptions
    | BernoulliKdOptions
    | DkdOptions
    | DistOptions
    | PldOptions
    | BpkdOptions
    | CwdOptions
    | FitNetsOptions
    | AttentionTransferOptions
    | MgdOptions
    | ReviewKdOptions
    | SpOptions
    | RkdOptions
    | CrdOptions
    | SimKdOptions,
    Field(discriminator="kind"),
]
