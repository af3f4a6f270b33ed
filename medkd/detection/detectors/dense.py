"""What one-stage detectors share: every anchor of every level is classified by K sigmoids and has one box.

Losses of one set of labels, over its N positive anchors (those matched to a box):
    classification   focal loss of the positives, replaceable, plus that of the negatives; both over N
    box              of the positives whose target is trusted, over N
Card, section 8: the regions that a relational module sees are the positive anchors; there is no background logit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import sigmoid_focal_loss

from medkd.data.targets import Detections
from medkd.detection.detectors.assignment import BACKGROUND, Rows, best_detections
from medkd.detection.detectors.protocol import Classification, DetectorLosses, RoIs, TargetSet, check_sets


@dataclass(frozen=True)
class Dense:
    """Raw outputs of a batch: logits (B, A, K), codes (B, A, n), the detector's encoding of boxes; float32.

    anchors: (A, 2 D), the same for every image, level after level; counts: how many of them each level has.
    """

    logits: Tensor
    codes: Tensor
    anchors: Tensor
    counts: list[int]


class DenseDetector(nn.Module, ABC):
    """`Detector`; a subclass says what the outputs are, which anchors match, and how boxes are encoded."""

    classes: int
    channels: int
    dims: int
    nms: float
    most: int

    @abstractmethod
    def outputs(self, images: Tensor) -> Dense: ...

    @abstractmethod
    def match(self, boxes: Tensor, dense: Dense) -> Tensor:
        """(A,) the box (N, 2 D), N > 0, of each anchor, BACKGROUND or IGNORED."""

    @abstractmethod
    def box_losses(self, codes: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """(n,) losses of n positive anchors."""

    @abstractmethod
    def found(self, logits: Tensor, codes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Class scores (A, K) and boxes (A, 2 D) of one image."""

    def losses(
        self, images: Tensor, target_sets: Sequence[TargetSet], classification: Classification | None = None
    ) -> list[DetectorLosses]:
        check_sets(images, target_sets)
        dense = self.outputs(images)
        result = []
        for number, targets in enumerate(target_sets):
            present = {i: Rows.of(target, self.classes) for i, target in enumerate(targets) if target is not None}
            rois, negatives, box = self._of_set(dense, present)
            positives = classification(rois, number) if classification else rois.mean()
            none = negatives * 0.0
            result.append(DetectorLosses(positives + negatives, box, none, none, rois))
        return result

    def _of_set(self, dense: Dense, present: dict[int, Rows]) -> tuple[RoIs, Tensor, Tensor]:
        nothing = dense.logits.sum() * 0.0 + dense.codes.sum() * 0.0
        negatives = box = nothing
        parts: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
        for image, rows in present.items():
            boxes = rows.boxes[:-1]
            none = torch.full((len(dense.anchors),), BACKGROUND, device=boxes.device)
            row = self.match(boxes, dense) if len(boxes) else none
            logits = dense.logits[image]
            focal = sigmoid_focal_loss(logits, rows.soft[row][:, : self.classes]).sum(1) * rows.weight[row]
            negatives = negatives + torch.where(row == BACKGROUND, focal, 0.0).sum()
            at = (row >= 0).nonzero()[:, 0]
            of = row[at]
            background = logits.new_zeros(len(at), 1)
            parts.append((torch.cat([logits[at], background], 1), rows.gt[of], rows.soft[of], focal[at]))
            trusted = rows.regress[of]
            at, of = at[trusted], of[trusted]
            if len(at):
                box = box + self.box_losses(dense.codes[image][at], dense.anchors[at], rows.boxes[of]).sum()
        if not parts:
            empty = dense.logits.new_zeros(0, self.classes + 1)
            parts = [(empty + nothing, empty.argmax(1), empty, empty.sum(1) + nothing)]
        logits, gt, soft, loss = (torch.cat(list(column)) for column in zip(*parts))
        count = max(1, len(gt))
        return RoIs(logits, gt, soft, loss, anchors=dense.logits), negatives / count, box / count

    def class_logits(self, images: Tensor, regions: Sequence[Tensor] | None = None) -> Tensor:
        return self.outputs(images).logits

    @torch.no_grad()
    def predict(self, images: Tensor, score_threshold: float = 0.05) -> list[Detections]:
        """Probabilities are the sigmoid scores and 1 - the highest as background, divided by their sum."""
        dense, result = self.outputs(images), []
        for logits, codes in zip(dense.logits, dense.codes):
            scores, boxes = self.found(logits, codes, dense.anchors)
            with_background = torch.cat([scores, 1 - scores.amax(1, keepdim=True)], 1)
            each = boxes[:, None].expand(-1, self.classes, -1)
            found = best_detections(each, with_background, images.shape[2:], score_threshold, self.nms, self.most)
            assert found.probabilities is not None
            total = found.probabilities.sum(1, keepdim=True)
            result.append(Detections(found.boxes, found.labels, found.scores, found.probabilities / total))
        return result
