"""Typed options of the segmentation methods. No torch at import; `build` imports the class it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

import medkd.engine.options as engine
from medkd.engine.options import Options

if TYPE_CHECKING:
    from medkd.engine.method import Method
    from medkd.engine.phases import Networks
    from medkd.segmentation.losses import DiceCE

Dice = Literal["batch_squared", "sample_linear", "batch_linear"]
Weight = Field(0.5, ge=0, description="weight of the pseudo-label region; ground truth has weight 1")
Connectivity = Literal[4, 8, 6, 18, 26]


class MethodOptions(engine.MethodOptions):
    """Base of the method options of this room."""

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)


class SupervisedLoss(Options):
    """The task's loss on labelled images: dice_weight * Dice + ce_weight * cross-entropy.

    The default is the published 2-D recipe. nnU-Net's: dice batch_linear, background no, both weights 1.
    """

    dice: Dice = "batch_squared"
    smooth: float = Field(1e-5, gt=0)
    background: bool = Field(True, description="whether the Dice averages over the background too")
    dice_weight: float = Field(0.5, ge=0)
    ce_weight: float = Field(0.5, ge=0)

    def build(self) -> DiceCE:
        from medkd.segmentation.losses import DiceCE

        return DiceCE(self.dice, self.smooth, self.background, self.dice_weight, self.ce_weight)


class TeacherOptions(Options):
    """A moving-average teacher: decay is the weight of the OLD teacher."""

    decay: float = Field(0.99, ge=0, le=1)
    warmup: bool = False
    buffers: Literal["copy", "blend", "own"] = "copy"
    mode: Literal["eval", "train"] = "eval"


class MaskOptions(MethodOptions):
    """The box that is pasted."""

    pairs: ClassVar[bool] = True

    beta: float = Field(2 / 3, ge=0, le=1, description="side of the box as a share of the image; 0 pastes nothing")
    mask: Literal["box", "grid", "slab"] = "box"
    inclusive_end: bool = Field(True, description="the published code cannot draw the last legal start")
    dice: Dice = "batch_squared"


class LabelledCopyPasteOptions(MaskOptions):
    kind: Literal["labelled_copy_paste"] = "labelled_copy_paste"
    regional: bool = Field(True, description="regional loss, both weights 1 (ACDC); else the task's plain loss (LA)")
    both_directions: bool = Field(False, description="each half also into the other: a composite a sample, not a pair")

    paper: ClassVar[str] = "BCP stage 1 (Bai et al., CVPR 2023)"
    summary: ClassVar[str] = "labelled images pasted into labelled images"
    needs: ClassVar[tuple[str, ...]] = ("labelled",)

    def build(self, networks: Networks) -> Method:
        from medkd.segmentation.bcp import LabelledCopyPaste

        return LabelledCopyPaste(networks(0), self)


class PseudoLabelOptions(MethodOptions):
    """What BCP and its twin without copy-paste share."""

    pairs: ClassVar[bool] = True

    pseudo_weight: float = Weight
    components: bool = Field(True, description="keep only the largest component of each class of a pseudo-label")
    connectivity: Connectivity | None = Field(None, description="4 or 8 (2-D), 6, 18 or 26 (3-D); default 8 and 26")
    teacher: TeacherOptions = TeacherOptions()
    joint_forward: bool = Field(True, description="both halves in one forward; the published code makes two")
    candidates: ClassVar[tuple[str, ...]] = ("student", "teacher")


_PUBLISHED = {"inclusive_end": False, "joint_forward": False, "pseudo_weight": 0.5}
BCP_PRESETS: dict[str, dict[str, object]] = {
    "recommended": {},
    "faithful_2d": _PUBLISHED
    | {"dice": "batch_squared", "connectivity": 8, "teacher": {"decay": 0.99, "buffers": "blend", "mode": "train"}},
    "faithful_3d": _PUBLISHED
    | {"dice": "sample_linear", "connectivity": 26, "teacher": {"decay": 0.99, "buffers": "own", "mode": "train"}},
}


class BcpOptions(PseudoLabelOptions, MaskOptions):
    """A preset fills the options that are not given: the published ACDC (faithful_2d) or left-atrium (faithful_3d)
    pipeline, or the recommended one, which is the defaults."""

    kind: Literal["bcp"] = "bcp"
    preset: Literal["recommended", "faithful_2d", "faithful_3d"] = "recommended"

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        preset = BCP_PRESETS.get(str(given.get("preset")), {})
        merged = preset | given
        if isinstance(given.get("teacher"), dict) and isinstance(preset.get("teacher"), dict):
            merged["teacher"] = preset["teacher"] | given["teacher"]
        return merged

    paper: ClassVar[str] = "Bai et al., Bidirectional Copy-Paste, CVPR 2023, arXiv 2305.00673"
    summary: ClassVar[str] = "composites of labelled and unlabelled images, both directions, with an EMA teacher"

    def build(self, networks: Networks) -> Method:
        from medkd.segmentation.bcp import BidirectionalCopyPaste

        return BidirectionalCopyPaste(networks(0), self)


class SelfTrainingOptions(PseudoLabelOptions):
    kind: Literal["self_training"] = "self_training"
    dice: Dice = "batch_squared"

    paper: ClassVar[str] = "EMA self-training without copy-paste (BCP's own ablation)"
    summary: ClassVar[str] = "pseudo-labels of an EMA teacher on whole images"

    def build(self, networks: Networks) -> Method:
        from medkd.segmentation.self_training import SelfTraining

        return SelfTraining(networks(0), self)


class NoisyTeacherOptions(TeacherOptions):
    """The published Mean Teacher recipes: warm-up, dropout active in the teacher, its own batch statistics."""

    warmup: bool = True
    buffers: Literal["copy", "blend", "own"] = "own"
    mode: Literal["eval", "train"] = "train"


class MeanTeacherOptions(MethodOptions):
    """Lengths are shares of the phase. Published for 30,000 updates: a ramp over 200 x 150 updates, which is ramp 1,
    and no consistency before update 1,000, which is start 1/30."""

    kind: Literal["mean_teacher"] = "mean_teacher"
    weight: float = Field(0.1, ge=0, description="final weight of the consistency loss")
    ramp: float = Field(1.0, ge=0, description="length of the sigmoid ramp as a share of the phase")
    start: float = Field(1 / 30, ge=0, le=1, description="share of the phase before the consistency loss counts")
    noise: float = Field(0.1, ge=0, description="sd of the noise on the teacher's input, clipped at twice that")
    teacher: NoisyTeacherOptions = NoisyTeacherOptions()

    paper: ClassVar[str] = "Tarvainen and Valpola, Mean Teacher, NeurIPS 2017, arXiv 1703.01780"
    summary: ClassVar[str] = "squared difference of student and EMA teacher under input noise"
    candidates: ClassVar[tuple[str, ...]] = ("student", "teacher")

    def build(self, networks: Networks) -> Method:
        from medkd.segmentation.mean_teacher import MeanTeacher

        return MeanTeacher(networks(0), self)


class UaMtOptions(MeanTeacherOptions):
    """Mean Teacher's ramp and noise, no delay; the threshold of the entropy rises from 3/4 of its maximum to all of it
    over the phase."""

    kind: Literal["ua_mt"] = "ua_mt"  # type: ignore[assignment]
    start: float = Field(0.0, ge=0, le=1)
    passes: int = Field(8, ge=2, description="noisy teacher passes that estimate the uncertainty")
    two_class_entropy: bool = Field(False, description="ln 2 and 2 for any class count, as in the published port")

    paper: ClassVar[str] = "Yu et al., UA-MT, MICCAI 2019, arXiv 1907.07034"
    summary: ClassVar[str] = "Mean Teacher where the teacher is certain over several noisy passes"

    @model_validator(mode="after")
    def _even(self) -> UaMtOptions:
        if self.passes % 2:
            raise ValueError(f"passes is {self.passes}; an even number is needed (the batch is doubled)")
        return self

    def build(self, networks: Networks) -> Method:
        from medkd.segmentation.ua_mt import UncertaintyAwareMeanTeacher

        return UncertaintyAwareMeanTeacher(networks(0), self)


class CpsOptions(MethodOptions):
    """Published for 30,000 updates: a ramp over 200 x 150 updates, which is ramp 1."""

    kind: Literal["cps"] = "cps"
    weight: float = Field(0.1, ge=0)
    ramp: float = Field(1.0, ge=0, description="length of the sigmoid ramp as a share of the phase")

    paper: ClassVar[str] = "Chen et al., Cross Pseudo Supervision, CVPR 2021, arXiv 2106.01226"
    summary: ClassVar[str] = "two networks, each taught by the other's hard labels"
    candidates: ClassVar[tuple[str, ...]] = ("student", "second")  # their mean is two networks: scored, not shipped

    def build(self, networks: Networks) -> Method:
        from medkd.segmentation.cps import CrossPseudoSupervision

        return CrossPseudoSupervision(networks(0), networks(1), self)


class UniMatchOptions(MethodOptions):
    """Half of the unlabelled batch is trained on, the other half supplies the CutMix boxes: the published 12 + 12 are
    unlabelled.size 24. Needs a network whose encoder levels are known (BasicUNet)."""

    pairs: ClassVar[bool] = True
    compiles: ClassVar[bool] = False  # it hooks the encoder's levels

    kind: Literal["unimatch"] = "unimatch"
    threshold: float = Field(0.95, ge=0, description="least confidence of a pseudo-label; above 1 none counts")
    feature_dropout: float = Field(0.5, ge=0, lt=1)
    cutmix: float = Field(0.5, ge=0, le=1, description="probability of a CutMix box in a strong view")

    paper: ClassVar[str] = "Yang et al., UniMatch, CVPR 2023, arXiv 2208.09910 (medical version)"
    summary: ClassVar[str] = "weak-to-strong consistency of two image views and one feature view"

    def build(self, networks: Networks) -> Method:
        from medkd.segmentation.unimatch import UniMatch

        return UniMatch(networks(0), self)
