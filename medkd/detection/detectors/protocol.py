"""What every detector offers, whatever library it comes from.

A detector is a module in medkd's conventions (data/targets.py) whose losses take several sets of labels for the same
images: the backbone runs once, each set gets an assignment of its own. Images of a batch have one size and come in
[0, 1]; a backbone normalises them itself, nothing is resized inside.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence, Sized
from dataclasses import dataclass
from typing import Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.data.targets import Detections, Target
from medkd.errors import InputError

TargetSet: TypeAlias = "Sequence[Target | None]"
"""One target an image; None: the image has no part in the losses of this set (not even as background)."""


@dataclass(frozen=True)
class RoIs:
    """What one set of labels asked of the classifier in one batch: R sampled regions, or R positive anchors.

    logits: (R, K + 1) with graph, the last column background. A one-stage detector has no background logit: it is the
    constant 0, so that the argmax is background exactly if every class scores below one half (card, section 8).
    gt: (R,) int64, K is background. soft: (R, K + 1), one-hot where the target had no soft labels.
    loss: (R,) with graph: the detector's own classification loss of each region times the target's weight.
    regions: (R_i, 2 D) of each image, in the order of the rows; None from a one-stage detector.
    anchors: (B, A, K) with graph, the logits of all anchors of a one-stage detector; None from another.
    """

    logits: Tensor
    gt: Tensor
    soft: Tensor
    loss: Tensor
    regions: Sequence[Tensor] | None = None
    anchors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.gt)

    def mean(self, weight: Tensor | None = None) -> Tensor:
        """The mean loss over the regions, each times `weight` (R,); 0 with a graph where there is none."""
        loss = self.loss if weight is None else self.loss * weight
        return loss.sum() / max(1, len(self))


Classification: TypeAlias = Callable[[RoIs, int], Tensor]
"""(RoIs of a set, index of the set) -> the scalar that takes the place of `rois.mean()`. Called for every set, also
where it has no region, so that it may communicate over the ranks."""


@dataclass(frozen=True)
class DetectorLosses:
    """The losses of one set: float32 scalars with a graph, 0 where the detector has no such part."""

    classification: Tensor
    box: Tensor
    objectness: Tensor
    rpn_box: Tensor
    rois: RoIs

    def total(self, box: bool = True) -> Tensor:
        """Their sum; without `box` only what is classification."""
        loss = self.classification + self.objectness
        return loss + self.box + self.rpn_box if box else loss


class Detector(Protocol):
    """An nn.Module with `classes` foreground classes, for images (B, channels, *S) with `dims` spatial axes."""

    classes: int
    channels: int
    dims: int

    def losses(
        self, images: Tensor, target_sets: Sequence[TargetSet], classification: Classification | None = None
    ) -> list[DetectorLosses]:
        """Losses of each set of labels for the same images (B, C, *S), in train or eval mode (BN as the mode says)."""
        ...

    def predict(self, images: Tensor, score_threshold: float = 0.05) -> list[Detections]:
        """Detections of each image; no gradient. The module is expected in eval mode."""
        ...

    def class_logits(self, images: Tensor, regions: Sequence[Tensor] | None = None) -> Tensor:
        """(R, K + 1) with graph, background last, of the regions (R_i, 2 D) of each image, by a two-stage detector;
        (B, A, K) of all anchors by a one-stage one, which takes no regions."""
        ...

    def feature_map(self, images: Tensor) -> Tensor:
        """(B, C', *S') the deepest map of the backbone, with graph."""
        ...


class Scene(Protocol):
    """One forward of a batch through a two-stage detector: what its sets of labels and its regions share."""

    proposals: list[Tensor]
    """(R_i, 4) of each image, no gradient."""

    def losses(
        self, target_sets: Sequence[TargetSet], classification: Classification | None = None
    ) -> list[DetectorLosses]:
        """As `Detector.losses`."""
        ...

    def detections(self, score_threshold: float) -> list[Detections]:
        """As `Detector.predict`."""
        ...

    def features(self, regions: list[Tensor]) -> Tensor:
        """(R, D) float32 of the regions of all images: what the box predictor reads."""
        ...

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, K + 1), background last, and box deltas in the detector's own layout, of features (R, D)."""
        ...

    def moved(self, regions: list[Tensor], logits: Tensor, deltas: Tensor) -> Tensor:
        """(R, 4) the regions moved by the deltas of their likeliest class; those that are background stay."""
        ...


class TwoStage(Detector, Protocol):
    """A detector with regions of interest."""

    def scene(self, images: Tensor) -> Scene: ...


def two_stage(network: nn.Module) -> TwoStage:
    """The network as a detector with regions. Raises InputError for a one-stage detector."""
    if not hasattr(network, "scene"):
        raise InputError(
            f"{type(network).__name__} has no regions of interest, which the method compares; use detector.kind: "
            "faster_rcnn"
        )
    return cast(TwoStage, network)


def soft_cross_entropy(logits: Tensor, soft: Tensor) -> Tensor:
    """(R,) of logits and soft labels, both (R, K + 1): -sum_k y_k log softmax(z)_k.

    >>> soft_cross_entropy(torch.zeros(1, 2), torch.tensor([[0.25, 0.75]]))
    tensor([0.6931])
    """
    return -(soft * F.log_softmax(logits, dim=1)).sum(1)


def soft_labels(target: Target, classes: int) -> Tensor:
    """(N, K + 1) float32: the target's own, or one-hot."""
    if target.soft is not None:
        return target.soft.float()
    return F.one_hot(target.labels, classes + 1).float()


def weights(target: Target) -> Tensor:
    """(N,) float32: the target's own, or ones."""
    return torch.ones_like(target.boxes[:, 0]) if target.weight is None else target.weight.float()


def check_sets(images: Sized, target_sets: Sequence[TargetSet]) -> None:
    """Raise ValueError unless every set has one entry an image."""
    for number, targets in enumerate(target_sets):
        if len(targets) != len(images):
            raise ValueError(f"target set {number} has {len(targets)} entries for {len(images)} images")
