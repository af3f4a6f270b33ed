"""Typed options of source-free adaptation of detectors. No torch at import; `build` imports the class it makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from medkd.engine.options import MethodOptions, Options

if TYPE_CHECKING:
    from medkd.engine.method import Method
    from medkd.engine.phases import Networks


class StaticLabels(Options):
    """Labels of the source model, which stays as it is; their weight falls along half a cosine."""

    weight: float = Field(1.0, ge=0, description="at the start; 0 leaves them out")
    until: float = Field(1 / 3, gt=0, description="share of the phase after which the weight is 0; inf: it stays")
    threshold: float = Field(0.7, ge=0, le=1)


class SourceFreeOptions(MethodOptions):
    """What all methods share that train a detector on unlabelled images of a new site with labels of a teacher."""

    threshold: float = Field(0.7, ge=0, le=1, description="a teacher's detection above this score is a label")
    teacher_weight: float = Field(1.0, ge=0)
    decay: float = Field(0.999, ge=0, le=1, description="weight of the OLD teacher")
    every: PositiveInt = Field(1, description="updates between two steps of the teacher's average")
    regress: bool = Field(False, description="whether the teacher's boxes are trusted in their place")
    warmup: bool = Field(False, description="the decay rises from 0; the first updates then follow the student closely")
    static: StaticLabels = StaticLabels(weight=0.0)
    burn_in: NonNegativeInt = Field(0, description="first updates, in which static labels alone train")
    empty: Literal["skip", "background"] = Field(
        "skip", description="an image without labels: left out, or taught as background (what was missed as well)"
    )
    pull_back: float = Field(0.0, ge=0, le=1, description="student <- (1 - a) student + a teacher, once a period")
    period: PositiveInt = Field(100, description="updates between two pull-backs")

    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    needs: ClassVar[tuple[str, ...]] = ("unlabelled",)
    candidates: ClassVar[tuple[str, ...]] = ("student", "teacher")

    @model_validator(mode="after")
    def _labels(self) -> SourceFreeOptions:
        if self.burn_in and not self.static.weight:
            raise ValueError(f"burn_in is {self.burn_in}, but there are no static labels: set static.weight above 0")
        if not self.teacher_weight and not self.static.weight:
            raise ValueError("teacher_weight and static.weight are both 0: nothing would be learnt")
        if not self.teacher_weight and self.static.until != float("inf"):
            raise ValueError(
                f"teacher_weight is 0 and static.until {self.static.until:g}: nothing would train after it"
            )
        return self


class DetectionMeanTeacherOptions(SourceFreeOptions):
    kind: Literal["detection_mean_teacher"] = "detection_mean_teacher"

    paper: ClassVar[str] = "mean-teacher self-training of a detector (Unbiased Teacher, ICLR 2021; SF-UT, ECCV 2024)"
    summary: ClassVar[str] = "confident boxes of an EMA teacher on weak views train the student on strong ones"

    def build(self, networks: Networks) -> Method:
        from medkd.detection.mean_teacher import MeanTeacherDetector

        return MeanTeacherDetector(networks(0), self)


class StaticLabelsOptions(SourceFreeOptions):
    kind: Literal["static_labels"] = "static_labels"
    teacher_weight: float = Field(0.0, ge=0)
    static: StaticLabels = StaticLabels(until=float("inf"))

    paper: ClassVar[str] = "self-training on the source model's own labels"
    summary: ClassVar[str] = "the source model labels the images once and for all; no teacher moves"

    def build(self, networks: Networks) -> Method:
        from medkd.detection.mean_teacher import MeanTeacherDetector

        return MeanTeacherDetector(networks(0), self)


class ExpertOptions(Options):
    """A second, independent set of boxes, from a file in original pixels (medkd/detection/experts.py)."""

    file: str = Field(description="COCO JSON or CSV, joined by the id of the image")
    classes: tuple[str, ...] = Field(description="names of the classes, in the detector's order")
    covers: tuple[str, ...] | None = Field(
        None, description="the classes it looks for, all if not given; the teacher's boxes stand for the others"
    )
    weight: float = Field(0.5, ge=0)
    threshold: float = Field(0.7, ge=0, le=1)
    regress: bool = Field(True, description="whether its boxes are trusted in their place")
    fusion: Literal["separate", "weighted", "agreement"] = "separate"

    @model_validator(mode="after")
    def _covers(self) -> ExpertOptions:
        unknown = sorted(set(self.covers or ()) - set(self.classes))
        if unknown or self.covers == ():
            allowed = ", ".join(self.classes)
            raise ValueError(f"expert.covers names {', '.join(unknown) or 'no class'}; the classes are: {allowed}")
        if self.covers and len(self.covers) < len(self.classes):
            if self.fusion == "agreement":
                raise ValueError("expert.covers leaves out classes, so fusion: agreement would remove all their boxes")
            if self.fusion == "separate" and self.regress:
                raise ValueError(
                    "expert.covers leaves out classes, for which the teacher's boxes stand, and these are not trusted "
                    "in their place; set expert.regress to false"
                )
        return self


class GroundedTeacherOptions(SourceFreeOptions):
    kind: Literal["grounded_teacher"] = "grounded_teacher"
    static: StaticLabels = StaticLabels()
    expert: ExpertOptions | None = None
    semantic_loss: Literal["sqrt", "probability", "none"] = "sqrt"
    lam: float = Field(1.0, ge=0, description="0: the full contrast of the weights; large: plain cross-entropy")
    mixing: float = Field(0.5, ge=0, le=1, description="probability of an image to have crops mixed into its boxes")
    bank: PositiveInt = Field(50, description="crops kept of each class")
    crop_side: PositiveInt = Field(32, description="pixels along each axis at which a crop is kept")
    momentum: float = Field(0.99, ge=0, lt=1, description="weight of the OLD row of the relational context")
    context_warmup: NonNegativeInt = Field(200, description="updates over which the momentum rises from 0.5")
    include_background: bool = Field(
        False, description="the context also counts missed objects (ours, not the paper's)"
    )
    blend: float = Field(0.25, ge=0, le=1, description="share of the phase over which the target's matrix takes over")
    source_matrix: str | None = Field(
        None,
        description="relation.json of the source training; medkd train takes that of init where this is not set, and "
        "where there is none the context is learnt from the static labels",
    )

    paper: ClassVar[str] = "Ashraf et al., Context Aware Grounded Teacher, arXiv 2504.15404"
    summary: ClassVar[str] = "mean teacher with an expert's boxes; class confusions weight the loss and choose crops"

    def build(self, networks: Networks) -> Method:
        from medkd.detection.grounded_teacher import GroundedTeacher

        return GroundedTeacher(networks(0), self)


class AdaBNOptions(MethodOptions):
    kind: Literal["adabn"] = "adabn"

    paper: ClassVar[str] = "AdaBN (Li et al. 2016); simple-SFOD, ECCV 2024"
    summary: ClassVar[str] = "the statistics of batch normalisation anew on the target's images; no weight changes"
    tasks: ClassVar[tuple[str, ...]] = ("detection",)
    needs: ClassVar[tuple[str, ...]] = ("unlabelled",)

    def build(self, networks: Networks) -> Method:
        from medkd.detection.adabn import AdaBN

        return AdaBN(networks(0))
