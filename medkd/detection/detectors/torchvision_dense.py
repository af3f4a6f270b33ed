"""torchvision's RetinaNet and FCOS: their heads, matchers and box coders, our way from targets to losses (dense.py)."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection._utils import BoxCoder, BoxLinearCoder, Matcher
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.fcos import FCOSClassificationHead, FCOSRegressionHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.retinanet import RetinaNetClassificationHead, RetinaNetRegressionHead
from torchvision.ops import generalized_box_iou_loss

from medkd.detection.detectors.assignment import BACKGROUND, match
from medkd.detection.detectors.dense import Dense, DenseDetector
from medkd.detection.detectors.options import DenseOptions, FCOSOptions, RetinaNetOptions
from medkd.detection.detectors.pyramid import Pyramid
from medkd.errors import InputError

RADIUS = 1.5  # of FCOS's centre sampling, in strides
GROUPS = partial(nn.GroupNorm, 8)


class TorchvisionDense(DenseDetector):
    """What RetinaNet and FCOS share: a Pyramid, two heads under torchvision's names, anchors."""

    dims = 2

    def __init__(
        self,
        backbone: Pyramid,
        heads: tuple[nn.Module, nn.Module],
        anchors: AnchorGenerator,
        options: DenseOptions,
        classes: int,
    ):
        super().__init__()
        self.classes, self.channels = classes, backbone.channels
        self.backbone, self.anchor_generator = backbone, anchors
        self.head = nn.ModuleDict({"classification_head": heads[0], "regression_head": heads[1]})
        self.nms, self.most = options.nms, options.detections

    def outputs(self, images: Tensor) -> Dense:
        maps = [m.float() for m in self.backbone(images).values()]
        logits, codes = self.head["classification_head"](maps), self.head["regression_head"](maps)
        codes = torch.cat(codes, 2) if isinstance(codes, tuple) else codes  # FCOS: sides and centreness
        sizes = [(images.shape[-2], images.shape[-1])] * len(images)
        anchors = self.anchor_generator(ImageList(images, sizes), maps)[0]
        each = self.anchor_generator.num_anchors_per_location()
        counts = [m.shape[-2] * m.shape[-1] * a for m, a in zip(maps, each)]
        return Dense(logits.float(), codes.float(), anchors, counts)

    def feature_map(self, images: Tensor) -> Tensor:
        return next(reversed(self.backbone.maps(images).values()))


class TorchvisionRetinaNet(TorchvisionDense):
    """Anchors of three scales and several ratios; matched by overlap (IoU) of .5, ignored between .4 and .5."""

    matcher = Matcher(0.5, 0.4, allow_low_quality_matches=True)
    coder = BoxCoder((1.0, 1.0, 1.0, 1.0))

    def match(self, boxes: Tensor, dense: Dense) -> Tensor:
        return match(self.matcher, boxes, dense.anchors)

    def box_losses(self, codes: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        return F.l1_loss(codes, self.coder.encode_single(boxes, anchors), reduction="none").sum(1)

    def found(self, logits: Tensor, codes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        return logits.sigmoid(), self.coder.decode_single(codes, anchors)


class TorchvisionFCOS(TorchvisionDense):
    """No anchors: a point is positive for the smallest box that it is near the centre of and whose size fits its level.

    The codes are the distances to the four sides in strides, and the centreness logit.
    """

    coder = BoxLinearCoder(normalize_by_size=True)

    def match(self, boxes: Tensor, dense: Dense) -> Tensor:
        """A level takes boxes whose farthest side is 4 to 8 strides away; the finest and the coarsest take the rest."""
        points, stride = centres(dense.anchors), dense.anchors[:, 2] - dense.anchors[:, 0]
        sides = torch.cat([points[:, None] - boxes[None, :, :2], boxes[None, :, 2:] - points[:, None]], 2)
        near = (points[:, None] - centres(boxes)[None]).abs().amax(2) < RADIUS * stride[:, None]
        low, high = 4 * stride, 8 * stride
        low[: dense.counts[0]], high[len(high) - dense.counts[-1] :] = 0.0, float("inf")
        farthest = sides.amax(2)
        fits = (farthest >= low[:, None]) & (farthest < high[:, None])
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        cost = torch.where(near & fits & (sides.amin(2) > 0), area[None], float("inf"))
        smallest, row = cost.min(1)
        return torch.where(smallest.isfinite(), row, BACKGROUND)

    def box_losses(self, codes: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        """Generalised IoU, and the cross-entropy of the centreness."""
        sides = self.coder.encode(anchors, boxes)
        wanted = torch.stack([_min_over_max(sides[:, [0, 2]]), _min_over_max(sides[:, [1, 3]])]).prod(0).sqrt()
        overlap = generalized_box_iou_loss(self.coder.decode(codes[:, :4], anchors), boxes)
        return overlap + F.binary_cross_entropy_with_logits(codes[:, 4], wanted, reduction="none")

    def found(self, logits: Tensor, codes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        scores = (logits.sigmoid() * codes[:, 4:].sigmoid()).sqrt()
        return scores, self.coder.decode(codes[:, :4], anchors)


def centres(boxes: Tensor) -> Tensor:
    """(N, 2) of boxes (N, 4)."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _min_over_max(sides: Tensor) -> Tensor:
    return sides.amin(1) / sides.amax(1)


def retinanet(options: RetinaNetOptions, dims: int, channels: int, classes: int) -> TorchvisionRetinaNet:
    """The detector of the options, its weights drawn from torch's global generator."""
    _only_2d("retinanet", dims)
    backbone = options.backbone.build(channels)
    sides = [options.anchor_scale * 4 * 2**level for level in range(backbone.levels)]
    scales = tuple(tuple(round(side * 2 ** (third / 3)) for third in range(3)) for side in sides)
    anchors = AnchorGenerator(scales, (options.ratios,) * backbone.levels)
    width, each = backbone.out_channels, anchors.num_anchors_per_location()[0]
    heads = (
        RetinaNetClassificationHead(width, each, classes, norm_layer=GROUPS),
        RetinaNetRegressionHead(width, each, norm_layer=GROUPS),
    )
    return TorchvisionRetinaNet(backbone, heads, anchors, options, classes)


def fcos(options: FCOSOptions, dims: int, channels: int, classes: int) -> TorchvisionFCOS:
    """The detector of the options, its weights drawn from torch's global generator."""
    _only_2d("fcos", dims)
    backbone = options.backbone.build(channels)
    strides = tuple((4 * 2**level,) for level in range(backbone.levels))
    anchors = AnchorGenerator(strides, ((1.0,),) * backbone.levels)
    width = backbone.out_channels
    heads = (
        FCOSClassificationHead(width, 1, classes, norm_layer=GROUPS),
        FCOSRegressionHead(width, 1, norm_layer=GROUPS),
    )
    return TorchvisionFCOS(backbone, heads, anchors, options, classes)


def _only_2d(kind: str, dims: int) -> None:
    if dims != 2:
        raise InputError(f"detector.kind is {kind!r} and the images have {dims} axes; it detects in 2-D alone")
