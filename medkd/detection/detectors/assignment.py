"""Which label a region or an anchor is trained towards, and what stays of many detections of one object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from monai.data import box_utils
from torch import Tensor
from torchvision.ops import batched_nms, box_iou, clip_boxes_to_image, remove_small_boxes

from medkd.data.targets import Detections, Target
from medkd.detection.detectors.protocol import soft_labels, weights

CANDIDATES = 2000
BACKGROUND, IGNORED = -1, -2
"""What a matcher says of a region that belongs to no box; torchvision and MONAI use the same numbers."""


@dataclass(frozen=True)
class Rows:
    """A target as tables that a matcher's answer indexes: rows 0 .. N-1 are its boxes, row -1 is the background.

    boxes: (N + 1, 2 D). gt: (N + 1,), K for the background. soft: (N + 1, K + 1). weight: (N + 1,).
    regress: (N + 1,) bool, whether what is assigned to the row trains the box regression.
    """

    boxes: Tensor
    gt: Tensor
    soft: Tensor
    weight: Tensor
    regress: Tensor

    @classmethod
    def of(cls, target: Target, classes: int) -> Rows:
        boxes, count = target.boxes.float(), len(target)
        nowhere = torch.zeros_like(boxes[:1]) if count else boxes.new_zeros(1, boxes.shape[1])
        nowhere[:, boxes.shape[1] // 2 :] = 1.0
        background = boxes.new_zeros(1, classes + 1)
        background[:, classes] = 1.0
        return cls(
            torch.cat([boxes, nowhere]),
            torch.cat([target.labels, target.labels.new_full((1,), classes)]),
            torch.cat([soft_labels(target, classes), background]),
            torch.cat([weights(target), boxes.new_ones(1)]),
            (torch.arange(count + 1, device=boxes.device) < count) & target.regress,
        )


def match(matcher: Callable[[Tensor], Tensor], boxes: Tensor, regions: Tensor) -> Tensor:
    """(R,) the box of each region, BACKGROUND or IGNORED. boxes: (N, 4), N may be 0; regions: (R, 4)."""
    if not len(boxes):
        return torch.full((len(regions),), BACKGROUND, device=regions.device)
    return matcher(box_iou(boxes, regions))


def sampled(
    sampler: Callable[[list[Tensor]], tuple[list[Tensor], list[Tensor]]], matched: list[Tensor]
) -> list[Tensor]:
    """For each image the indices of the regions that a torchvision sampler draws from matched (R,), positives first."""
    kinds = [torch.where(m == IGNORED, -1, (m >= 0).long()) for m in matched]
    return [torch.cat([p.nonzero()[:, 0], n.nonzero()[:, 0]]) for p, n in zip(*sampler(kinds))]


def best_detections(
    boxes: Tensor, probabilities: Tensor, frame: Sequence[int], threshold: float, nms: float, most: int
) -> Detections:
    """Detections of one image from R regions, each of which may be an object of any class.

    boxes: (R, K, 2 D), one a class. probabilities: (R, K + 1) scores of the classes, the last column background.
    frame: the spatial shape of the image. Boxes are cut at the frame; those at or below the score threshold, those
    without area, all but the best of those of one class that overlap by more than `nms`, and all but the `most` best
    go. At most CANDIDATES of an image are compared.
    """
    regions, classes = boxes.shape[:2]
    scores, labels = probabilities[:, :classes].flatten(), torch.arange(classes, device=boxes.device).repeat(regions)
    kept = (scores > threshold).nonzero()[:, 0]
    if len(kept) > CANDIDATES:
        kept = kept[scores[kept].topk(CANDIDATES).indices]
    row = kept // classes
    boxes, scores, labels = boxes[row, labels[kept]], scores[kept], labels[kept]
    if boxes.shape[1] == 4:
        boxes = clip_boxes_to_image(boxes, (frame[0], frame[1]))
        solid = remove_small_boxes(boxes, 1e-2)
    else:
        boxes = torch.minimum(boxes.clamp(min=0), boxes.new_tensor(frame).repeat(2))
        solid = (boxes[:, 3:] - boxes[:, :3]).amin(1).ge(1e-2).nonzero()[:, 0]
    boxes, scores, labels, row = boxes[solid], scores[solid], labels[solid], row[solid]
    suppress = batched_nms if boxes.shape[1] == 4 else box_utils.batched_nms
    best = suppress(boxes, scores, labels, nms)[:most] if len(boxes) else solid[:0]
    return Detections(boxes[best], labels[best], scores[best], probabilities[row[best]])
