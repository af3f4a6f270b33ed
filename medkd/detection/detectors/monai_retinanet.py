"""MONAI's RetinaNet in 2-D and 3-D: its heads, anchors, box coder and ATSS matcher, our way from targets to losses.

MONAI's boxes follow the axes of the tensor. In 3-D that is medkd's order too; in 2-D x and y change places here.
"""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise

import torch
from monai.apps.detection.networks.retinanet_network import RetinaNet
from monai.apps.detection.utils.anchor_utils import AnchorGeneratorWithAnchorShape
from monai.apps.detection.utils.ATSS_matcher import ATSSMatcher
from monai.apps.detection.utils.box_coder import BoxCoder
from monai.data.box_utils import box_iou
from monai.networks.blocks import Convolution
from monai.networks.blocks.feature_pyramid_network import FeaturePyramidNetwork
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.detection.detectors.conventions import along_axes
from medkd.detection.detectors.dense import Dense, DenseDetector
from medkd.detection.detectors.options import MonaiRetinaNetOptions

CANDIDATES = 4  # anchors a level and box that the ATSS matcher looks at


class PlainPyramid(nn.Module):
    """Two convolutions a level from stride 2 on, and MONAI's feature pyramid on the levels from stride 4."""

    def __init__(self, options: MonaiRetinaNetOptions, dims: int, channels: int):
        super().__init__()
        widths = (channels, *options.features)
        self.levels = nn.ModuleList(
            nn.Sequential(
                Convolution(dims, given, wider, strides=2, norm=options.norm, act="relu"),
                Convolution(dims, wider, wider, norm=options.norm, act="relu"),
            )
            for given, wider in pairwise(widths)
        )
        self.fpn = FeaturePyramidNetwork(dims, list(options.features[1:]), options.pyramid)
        self.out_channels = options.pyramid

    def maps(self, images: Tensor) -> list[Tensor]:
        """The body's maps from stride 2 on."""
        maps = [images]
        for level in self.levels:
            maps.append(level(maps[-1]))
        return maps[1:]

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        levels: OrderedDict[str, Tensor] = self.fpn(
            OrderedDict((str(i), m) for i, m in enumerate(self.maps(images)[1:]))
        )
        return levels


class MonaiRetinaNet(DenseDetector):
    """`Detector` around MONAI's RetinaNet with cubic anchors, one size a level."""

    def __init__(
        self, network: RetinaNet, anchors: nn.Module, dims: int, channels: int, options: MonaiRetinaNetOptions
    ):
        super().__init__()
        self.network, self.anchor_generator, self.dims, self.channels = network, anchors, dims, channels
        self.classes, self.nms, self.most = network.num_classes, options.nms, options.detections
        self.coder = BoxCoder((1.0,) * (2 * dims))
        self.matcher = ATSSMatcher(CANDIDATES, box_iou, center_in_gt=False)  # type: ignore[arg-type]

    def outputs(self, images: Tensor) -> Dense:
        maps = [m.float() for m in self.network.feature_extractor(images).values()]
        logits, codes = self.network.classification_head(maps), self.network.regression_head(maps)
        anchors = self.anchor_generator(images, maps)[0]
        counts = [m[0, 0].numel() for m in maps]
        return Dense(_rows(logits, self.classes), _rows(codes, 2 * self.dims), anchors, counts)

    def match(self, boxes: Tensor, dense: Dense) -> Tensor:
        """ATSS; a box that it leaves without any anchor (ties among the candidates do that) gets its best one."""
        overlap, row = self.matcher(along_axes(boxes), dense.anchors, dense.counts, 1)
        number = torch.arange(len(boxes), device=row.device)
        alone = ~(row[None] == number[:, None]).any(1)
        row[overlap.argmax(1)[alone]] = number[alone]
        return row

    def box_losses(self, codes: Tensor, anchors: Tensor, boxes: Tensor) -> Tensor:
        return F.l1_loss(codes, self.coder.encode_single(along_axes(boxes), anchors), reduction="none").sum(1)

    def found(self, logits: Tensor, codes: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
        return logits.sigmoid(), along_axes(self.coder.decode_single(codes, anchors))

    def feature_map(self, images: Tensor) -> Tensor:
        pyramid = self.network.feature_extractor
        assert isinstance(pyramid, PlainPyramid)
        return pyramid.maps(images)[-1]


def monai_retinanet(options: MonaiRetinaNetOptions, dims: int, channels: int, classes: int) -> MonaiRetinaNet:
    """The detector of the options, its weights drawn from torch's global generator."""
    pyramid = PlainPyramid(options, dims, channels)
    network = RetinaNet(dims, classes, 1, pyramid, size_divisible=2 ** len(options.features))
    side = 4.0 * options.anchor_scale
    scales = [2.0**level for level in range(len(options.features) - 1)]
    anchors = AnchorGeneratorWithAnchorShape(scales, ((side,) * dims,))
    return MonaiRetinaNet(network, anchors, dims, channels, options)


def _rows(maps: list[Tensor], width: int) -> Tensor:
    """Maps (B, width, *S), level after level, to (B, A, width) float32."""
    return torch.cat([m.flatten(2).transpose(1, 2).reshape(len(m), -1, width) for m in maps], 1).float()
