"""torchvision's Faster R-CNN with soft labels, weights and several sets of labels in one forward.

The layers, anchors, matchers, samplers and box coders are torchvision's, and so are the names of the weights; what is
ours is the way from targets to losses. Without soft labels and weights the losses are torchvision's own.

For the images: backbone, objectness and proposals, once. For each set of labels:
    1. match the anchors to the boxes, sample, objectness and anchor regression;
    2. add the boxes to the proposals, match, sample;
    3. pool and classify the sampled regions; classification and box regression.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign, clip_boxes_to_image

from medkd.data.targets import Detections
from medkd.detection.detectors.assignment import Rows, best_detections, match, sampled
from medkd.detection.detectors.conventions import from_torchvision_columns, torchvision_ids
from medkd.detection.detectors.options import FasterRCNNOptions
from medkd.detection.detectors.protocol import (
    Classification,
    DetectorLosses,
    RoIs,
    TargetSet,
    check_sets,
    soft_cross_entropy,
)
from medkd.detection.detectors.pyramid import Pyramid
from medkd.errors import InputError

BETA = 1 / 9  # of the smooth L1 loss, as in torchvision
POOLED = 7  # side of a pooled region


class TorchvisionRCNN(nn.Module):
    """`Detector` around the parts of a torchvision FasterRCNN whose backbone is a Pyramid."""

    dims = 2

    def __init__(self, parts: FasterRCNN, classes: int):
        super().__init__()
        self.backbone: Pyramid = parts.backbone
        self.rpn, self.roi_heads, self.classes = parts.rpn, parts.roi_heads, classes
        self.channels = self.backbone.channels

    def losses(
        self, images: Tensor, target_sets: Sequence[TargetSet], classification: Classification | None = None
    ) -> list[DetectorLosses]:
        return self.scene(images).losses(target_sets, classification)

    @torch.no_grad()
    def predict(self, images: Tensor, score_threshold: float = 0.05) -> list[Detections]:
        return self.scene(images).detections(score_threshold)

    def scene(self, images: Tensor) -> Scene:
        """One forward up to the proposals."""
        return Scene(self, images)

    def class_logits(self, images: Tensor, regions: Sequence[Tensor] | None = None) -> Tensor:
        sizes = [(images.shape[-2], images.shape[-1])] * len(images)
        given = [images.new_zeros(0, 4)] * len(images) if regions is None else list(regions)
        return self.classify(self.features(self.maps(images), given, sizes))[0]

    def maps(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The levels of the pyramid, float32."""
        return OrderedDict((name, m.float()) for name, m in self.backbone(images).items())

    def features(self, maps: OrderedDict[str, Tensor], regions: list[Tensor], sizes: list[tuple[int, int]]) -> Tensor:
        """(R, D) float32: what the box predictor reads of the regions of all images."""
        features: Tensor = self.roi_heads.box_head(self.roi_heads.box_roi_pool(maps, regions, sizes))
        return features.float()

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Class logits (R, K + 1), background last, and box deltas (R, K + 1, 4), background FIRST, of (R, D)."""
        logits, deltas = self.roi_heads.box_predictor(features)
        return from_torchvision_columns(logits.float()), deltas.float().view(-1, self.classes + 1, 4)

    def feature_map(self, images: Tensor) -> Tensor:
        return next(reversed(self.backbone.maps(images).values()))


class Scene:
    """One forward of a batch up to its proposals: what all sets of labels share."""

    def __init__(self, detector: TorchvisionRCNN, images: Tensor):
        self.detector, self.rpn, self.heads = detector, detector.rpn, detector.roi_heads
        self.frame = (images.shape[-2], images.shape[-1])
        self.sizes = [self.frame] * len(images)
        self.maps = detector.maps(images)
        maps = list(self.maps.values())
        objectness, deltas = self.rpn.head(maps)
        self.anchors: list[Tensor] = self.rpn.anchor_generator(ImageList(images, self.sizes), maps)
        level_sizes = [level[0].numel() for level in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        self.objectness, self.deltas = objectness.flatten().float(), deltas.float()
        decoded = self.rpn.box_coder.decode(self.deltas.detach(), self.anchors).view(len(images), -1, 4)
        self.proposals: list[Tensor] = self.rpn.filter_proposals(decoded, self.objectness, self.sizes, level_sizes)[0]

    def losses(
        self, target_sets: Sequence[TargetSet], classification: Classification | None = None
    ) -> list[DetectorLosses]:
        """Of each set of labels, with assignments of its own."""
        check_sets(self.sizes, target_sets)
        result = []
        for number, targets in enumerate(target_sets):
            present = {i: Rows.of(t, self.detector.classes) for i, t in enumerate(targets) if t is not None}
            objectness, rpn_box = self.anchor_losses(present)
            rois, box = self.region_losses(present)
            class_loss = classification(rois, number) if classification else rois.mean()
            result.append(DetectorLosses(class_loss, box, objectness, rpn_box, rois))
        return result

    @torch.no_grad()
    def detections(self, score_threshold: float) -> list[Detections]:
        """The best detections of each image."""
        logits, deltas = self.read(self.proposals)
        boxes = self.decoded(deltas, self.proposals)[:, 1:]
        counts = [len(p) for p in self.proposals]
        return [
            best_detections(b, p, self.frame, score_threshold, self.heads.nms_thresh, self.heads.detections_per_img)
            for b, p in zip(boxes.split(counts), logits.softmax(1).split(counts))
        ]

    def anchor_losses(self, present: dict[int, Rows]) -> tuple[Tensor, Tensor]:
        """Objectness and anchor regression of the images in `present`, both over the number of sampled anchors."""
        matched = [match(self.rpn.proposal_matcher, r.boxes[:-1], self.anchors[i]) for i, r in present.items()]
        chosen = sampled(self.rpn.fg_bg_sampler, matched)
        class_sum = box_sum = self.objectness.sum() * 0.0  # in the graph even if nothing is sampled
        for (image, rows), where, of in zip(present.items(), chosen, matched):
            row = of[where]
            at = where + image * len(self.anchors[image])
            loss = F.binary_cross_entropy_with_logits(self.objectness[at], (row >= 0).float(), reduction="none")
            class_sum = class_sum + (loss * rows.weight[row]).sum()
            wanted = self.rpn.box_coder.encode([rows.boxes[row]], [self.anchors[image][where]])[0]
            box_sum = box_sum + _smooth_l1(self.deltas[at], wanted, rows.regress[row])
        count = max(1, sum(len(where) for where in chosen))
        return class_sum / count, box_sum / count + self.deltas.sum() * 0.0

    def region_losses(self, present: dict[int, Rows]) -> tuple[RoIs, Tensor]:
        """The sampled regions, classified, and their box regression over their number."""
        candidates = [torch.cat([self.proposals[i], r.boxes[:-1]]) for i, r in present.items()]
        rows = list(present.values())
        matched = [match(self.heads.proposal_matcher, r.boxes[:-1], c) for r, c in zip(rows, candidates)]
        chosen = sampled(self.heads.fg_bg_sampler, matched)
        regions = [c[where] for c, where in zip(candidates, chosen)]
        row = [of[where] for of, where in zip(matched, chosen)]

        nowhere = self.objectness.new_zeros(0, 4)
        by_image = dict(zip(present, regions))
        everywhere = [by_image.get(i, nowhere) for i in range(len(self.sizes))]
        logits, deltas = self.read(everywhere)
        if not present:
            none = torch.zeros(0, dtype=torch.int64, device=logits.device)
            return RoIs(logits, none, torch.zeros_like(logits), logits.sum(1), everywhere), deltas.sum()
        gt = torch.cat([r.gt[k] for r, k in zip(rows, row)])
        soft = torch.cat([r.soft[k] for r, k in zip(rows, row)])
        weight = torch.cat([r.weight[k] for r, k in zip(rows, row)])
        regress = torch.cat([r.regress[k] for r, k in zip(rows, row)])
        wanted = torch.cat(self.heads.box_coder.encode([r.boxes[k] for r, k in zip(rows, row)], regions))
        column = torchvision_ids(gt, self.detector.classes)
        box = _smooth_l1(deltas[torch.arange(len(gt), device=gt.device), column], wanted, regress)
        loss = soft_cross_entropy(logits, soft) * weight
        return RoIs(logits, gt, soft, loss, everywhere), box / max(1, len(gt))

    def read(self, regions: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Class logits and box deltas of regions of the scene."""
        return self.classify(self.features(regions))

    def features(self, regions: list[Tensor]) -> Tensor:
        """`TorchvisionRCNN.features` of regions of the scene."""
        return self.detector.features(self.maps, regions, self.sizes)

    def classify(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.detector.classify(features)

    def decoded(self, deltas: Tensor, regions: list[Tensor]) -> Tensor:
        """(R, K + 1, 4) boxes, background first; of no region too, of which torchvision's coder loses the shape."""
        boxes: Tensor = self.heads.box_coder.decode(deltas, regions)
        return boxes.reshape(len(deltas), self.detector.classes + 1, 4)

    def moved(self, regions: list[Tensor], logits: Tensor, deltas: Tensor) -> Tensor:
        """(R, 4) the regions moved by the deltas of their likeliest class, cut at the border; background stays."""
        classes, best = self.detector.classes, logits.argmax(1)
        column = torchvision_ids(best, classes)
        boxes = self.decoded(deltas, regions)[torch.arange(len(best), device=best.device), column]
        return torch.where((best == classes)[:, None], torch.cat(regions), clip_boxes_to_image(boxes, self.frame))


def _smooth_l1(deltas: Tensor, wanted: Tensor, used: Tensor) -> Tensor:
    """The sum over the rows that are used; rows that are not may hold anything."""
    loss = F.smooth_l1_loss(deltas, torch.where(used[:, None], wanted, 0.0), beta=BETA, reduction="none")
    return torch.where(used[:, None], loss, 0.0).sum()


def faster_rcnn(options: FasterRCNNOptions, dims: int, channels: int, classes: int) -> TorchvisionRCNN:
    """The detector of the options, its weights drawn from torch's global generator."""
    if dims != 2:
        raise InputError(f"detector.kind is 'faster_rcnn' and the images have {dims} axes; it detects in 2-D alone")
    backbone = options.backbone.build(channels)
    levels, width = backbone.levels, backbone.out_channels
    sides = tuple((round(options.anchor_scale * 4 * 2**level),) for level in range(levels))
    names = [str(level) for level in range(levels - 1)]
    # 224 pixels at the anchors of 32 to 512 that the assignment of regions to levels was designed with
    pool = MultiScaleRoIAlign(names, POOLED, sampling_ratio=2, canonical_scale=round(28 * options.anchor_scale))
    parts = FasterRCNN(
        backbone,
        rpn_anchor_generator=AnchorGenerator(sides, (options.ratios,) * levels),
        rpn_pre_nms_top_n_train=options.proposals, rpn_pre_nms_top_n_test=options.proposals,
        rpn_post_nms_top_n_train=options.proposals, rpn_post_nms_top_n_test=options.proposals,
        rpn_batch_size_per_image=options.rpn_samples,
        box_roi_pool=pool,
        box_head=TwoMLPHead(width * POOLED**2, options.head),
        box_predictor=FastRCNNPredictor(options.head, classes + 1),
        box_batch_size_per_image=options.roi_samples,
        box_nms_thresh=options.nms, box_detections_per_img=options.detections,
    )  # fmt: skip
    return TorchvisionRCNN(parts, classes)
