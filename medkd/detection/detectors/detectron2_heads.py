"""The parts of detectron2's Faster R-CNN with soft labels, weights and boxes that are not trusted in their place.

Anchors, matchers, samplers, box coders, normalisers and the names of the weights are detectron2's; the parts are in its
registries under the names of the classes. Labels travel as fields of `Instances`: what begins with `gt_` follows a box
to the proposals that are matched to it. Importing this module needs detectron2; losses need an EventStorage around.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY, RPN
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.roi_heads import ROI_HEADS_REGISTRY, StandardROIHeads
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor
from torch.nn import functional as F

from medkd.data.targets import Target
from medkd.detection.detectors.protocol import RoIs, soft_cross_entropy, soft_labels, weights


def instances(target: Target, classes: int, frame: tuple[int, int]) -> Instances:
    """A target as detectron2's Instances of an image of (H, W)."""
    boxes = target.boxes.float()
    trusted = torch.full((len(target),), target.regress, device=boxes.device)
    return Instances(
        frame, gt_boxes=Boxes(boxes), gt_classes=target.labels, gt_soft=soft_labels(target, classes),
        gt_weight=weights(target), gt_regress=trusted,
    )  # fmt: skip


@dataclass(frozen=True)
class Scored:
    """The anchors of every level, their objectness (B, A) and box deltas (B, A, 4), float32."""

    anchors: list[Boxes]
    logits: list[Tensor]
    deltas: list[Tensor]


@PROPOSAL_GENERATOR_REGISTRY.register()
class MedkdRPN(RPN):
    def score(self, features: dict[str, Tensor]) -> Scored:
        """Once a batch, for all sets of labels."""
        maps = [features[name] for name in self.in_features]
        logits, deltas = self.rpn_head(maps)
        return Scored(
            self.anchor_generator(maps),
            [z.permute(0, 2, 3, 1).flatten(1).float() for z in logits],
            [d.unflatten(1, (-1, 4)).permute(0, 3, 4, 1, 2).flatten(1, 3).float() for d in deltas],
        )

    @torch.no_grad()
    def propose(self, scored: Scored, frames: list[tuple[int, int]]) -> list[Instances]:
        """detectron2 ends the training at a value that is not finite; here it is left out, and the engine decides."""
        boxes = self._decode_proposals(scored.anchors, scored.deltas)
        before, after = self.pre_nms_topk[self.training], self.post_nms_topk[self.training]
        proposals: list[Instances] = find_top_rpn_proposals(
            boxes, scored.logits, frames, self.nms_thresh, before, after, self.min_box_size, training=False
        )
        return proposals

    def set_losses(self, scored: Scored, present: dict[int, Instances]) -> tuple[Tensor, Tensor]:
        """Objectness and anchor regression of the images that have a target, over all that could be sampled."""
        nothing = sum((v.sum() * 0.0 for v in (*scored.logits, *scored.deltas)), torch.zeros(()))
        if not present:
            return nothing, nothing
        images, targets = list(present), list(present.values())
        logits, deltas = [z[images] for z in scored.logits], [d[images] for d in scored.deltas]
        labels, boxes = self.label_and_sample_anchors(scored.anchors, targets)
        weight, trusted = zip(*(self._matched(scored.anchors, t) for t in targets))
        used = [torch.where((label == 1) & ~t, -1, label) for label, t in zip(labels, trusted)]
        box = self.losses(scored.anchors, logits, used, deltas, boxes)["loss_rpn_loc"]
        label = torch.stack(labels)
        positive = label == 1
        loss = F.binary_cross_entropy_with_logits(torch.cat(logits, 1), positive.float(), reduction="none")
        loss = torch.where(positive, loss * torch.stack(weight), torch.where(label == 0, loss, 0.0)).sum()
        count = self.batch_size_per_image * len(images)
        return loss / count * self.loss_weight.get("loss_rpn_cls", 1.0) + nothing, box + nothing

    def _matched(self, anchors: list[Boxes], target: Instances) -> tuple[Tensor, Tensor]:
        """Of the box that each anchor would be matched to: its weight and whether its place is trusted, both (A,)."""
        every = Boxes.cat(anchors)
        if not len(target):
            return torch.ones_like(every.tensor[:, 0]), torch.zeros_like(every.tensor[:, 0], dtype=torch.bool)
        row, _ = self.anchor_matcher(pairwise_iou(target.gt_boxes, every))
        return target.gt_weight[row], target.gt_regress[row]


@ROI_HEADS_REGISTRY.register()
class MedkdROIHeads(StandardROIHeads):
    def label_and_sample_proposals(self, proposals: list[Instances], targets: list[Instances]) -> list[Instances]:
        """detectron2's samples; what is background has the label background, weight 1 and no box to go to."""
        sampled: list[Instances] = super().label_and_sample_proposals(proposals, targets)
        for one in sampled:
            gt, known = one.gt_classes, one.has("gt_soft")  # not of boxless images, nor of detectron2's own callers
            background = gt == self.num_classes
            soft, weight = F.one_hot(gt, self.num_classes + 1).float(), torch.ones_like(gt, dtype=torch.float32)
            one.gt_soft = torch.where(background[:, None], soft, one.gt_soft) if known else soft
            one.gt_weight = torch.where(background, weight, one.gt_weight) if known else weight
            one.gt_regress = ~background & one.gt_regress if known else ~background
            one.gt_boxes = one.gt_boxes if one.has("gt_boxes") else one.proposal_boxes
        return sampled

    def read(self, features: dict[str, Tensor], boxes: list[Boxes]) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1) and box deltas (R, 4 K), or (R, 4) where the classes share them, of all images."""
        pooled = self.box_pooler([features[name] for name in self.box_in_features], boxes)
        logits, deltas = self.box_predictor(self.box_head(pooled))
        return logits.float(), deltas.float()

    def set_losses(
        self, features: dict[str, Tensor], proposals: list[Instances], present: dict[int, Instances]
    ) -> tuple[RoIs, Tensor]:
        """The sampled regions of the images that have a target, and their box regression over their number."""
        of_present = [proposals[i] for i in present]
        sampled = self.label_and_sample_proposals(of_present, list(present.values())) if present else []
        by_image = {i: one.proposal_boxes for i, one in zip(present, sampled)}
        nowhere = Boxes(proposals[0].proposal_boxes.tensor[:0])
        everywhere = [by_image.get(i, nowhere) for i in range(len(proposals))]
        regions = [boxes.tensor for boxes in everywhere]
        logits, deltas = self.read(features, everywhere)
        if not present:
            none = torch.zeros(0, dtype=torch.int64, device=logits.device)
            return RoIs(logits, none, torch.zeros_like(logits), logits.sum(1), regions), deltas.sum()
        gt, soft, weight, regress = (
            torch.cat([one.get(name) for one in sampled])
            for name in ("gt_classes", "gt_soft", "gt_weight", "gt_regress")
        )
        start, wanted = (
            Boxes.cat([one.get(name) for one in sampled]).tensor for name in ("proposal_boxes", "gt_boxes")
        )
        predictor = self.box_predictor
        box = predictor.box_reg_loss(start, wanted, deltas, torch.where(regress, gt, self.num_classes))
        rois = RoIs(logits, gt, soft, soft_cross_entropy(logits, soft) * weight, regions)
        return rois, box * predictor.loss_weight.get("loss_box_reg", 1.0)
