"""detectron2's GeneralizedRCNN as a detector. Importing this module needs detectron2 (docs/detection.md says how).

It is a GeneralizedRCNN still: it can be called as detectron2 does, its weights have detectron2's names, and a plain
GeneralizedRCNN of the same config loads them. Without soft labels and weights the losses are detectron2's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2 import __version__
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN, build_model
from detectron2.structures import Boxes
from detectron2.utils.events import EventStorage
from torch import Tensor

from medkd.data.targets import Detections
from medkd.detection.detectors.assignment import CANDIDATES, best_detections
from medkd.detection.detectors.conventions import detectron2_images
from medkd.detection.detectors.detectron2_heads import MedkdROIHeads, MedkdRPN, instances
from medkd.detection.detectors.options import Detectron2Options
from medkd.detection.detectors.protocol import Classification, DetectorLosses, TargetSet, check_sets
from medkd.errors import InputError

PYRAMID: dict[str, Any] = {
    "MODEL": {
        "BACKBONE": {"NAME": "build_resnet_fpn_backbone"},
        "RESNETS": {"OUT_FEATURES": ["res2", "res3", "res4", "res5"]},
        "FPN": {"IN_FEATURES": ["res2", "res3", "res4", "res5"]},
        "ANCHOR_GENERATOR": {"SIZES": [[32], [64], [128], [256], [512]]},
        "RPN": {
            "IN_FEATURES": ["p2", "p3", "p4", "p5", "p6"], "PRE_NMS_TOPK_TRAIN": 2000, "PRE_NMS_TOPK_TEST": 1000,
            "POST_NMS_TOPK_TRAIN": 1000, "POST_NMS_TOPK_TEST": 1000,
        },
        "ROI_HEADS": {"NAME": "StandardROIHeads", "IN_FEATURES": ["p2", "p3", "p4", "p5"]},
        "ROI_BOX_HEAD": {"NAME": "FastRCNNConvFCHead", "NUM_FC": 2, "POOLER_RESOLUTION": 7},
    }
}  # fmt: skip
"""Faster R-CNN with a feature pyramid, where the settings do not say otherwise (detectron2's own default is C4)."""

OURS = {
    "META_ARCHITECTURE": ("GeneralizedRCNN", "MedkdRCNN"),
    "PROPOSAL_GENERATOR.NAME": ("RPN", "MedkdRPN"),
    "ROI_HEADS.NAME": ("StandardROIHeads", "MedkdROIHeads"),
}
"""Parts that must be these, and the registered ones that take their places."""
OFF = ("MASK_ON", "KEYPOINT_ON", "ROI_BOX_HEAD.USE_SIGMOID_CE", "ROI_BOX_HEAD.TRAIN_ON_PRED_BOXES")


@META_ARCH_REGISTRY.register()
class MedkdRCNN(GeneralizedRCNN):
    """`Detector`, made by `detectron2_rcnn`."""

    proposal_generator: MedkdRPN
    roi_heads: MedkdROIHeads
    channels: int
    dims = 2

    @property
    def classes(self) -> int:
        return int(self.roi_heads.num_classes)

    def losses(
        self, images: Tensor, target_sets: Sequence[TargetSet], classification: Classification | None = None
    ) -> list[DetectorLosses]:
        check_sets(images, target_sets)
        frame, features = (images.shape[-2], images.shape[-1]), self.features(images)
        scored, result = self.proposal_generator.score(features), []
        proposals = self.proposal_generator.propose(scored, [frame] * len(images))
        with EventStorage():  # detectron2's losses write counts there; nothing is kept
            for number, targets in enumerate(target_sets):
                present = {i: instances(t, self.classes, frame) for i, t in enumerate(targets) if t is not None}
                objectness, rpn_box = self.proposal_generator.set_losses(scored, present)
                rois, box = self.roi_heads.set_losses(features, proposals, present)
                class_loss = classification(rois, number) if classification else rois.mean()
                result.append(DetectorLosses(class_loss, box, objectness, rpn_box, rois))
        return result

    @torch.no_grad()
    def predict(self, images: Tensor, score_threshold: float = 0.05) -> list[Detections]:
        """The threshold takes the place of the config's SCORE_THRESH_TEST."""
        frame, features = (images.shape[-2], images.shape[-1]), self.features(images)
        scored = self.proposal_generator.score(features)
        proposals = self.proposal_generator.propose(scored, [frame] * len(images))
        read = self.roi_heads.read(features, [p.proposal_boxes for p in proposals])
        predictor = self.roi_heads.box_predictor
        most = predictor.test_topk_per_image if predictor.test_topk_per_image >= 0 else CANDIDATES
        result = []
        for boxes, p in zip(predictor.predict_boxes(read, proposals), predictor.predict_probs(read, proposals)):
            each = boxes.unflatten(1, (-1, 4)).expand(-1, self.classes, -1)
            result.append(best_detections(each, p, frame, score_threshold, predictor.test_nms_thresh, most))
        return result

    def class_logits(self, images: Tensor, regions: Sequence[Tensor] | None = None) -> Tensor:
        given = [images.new_zeros(0, 4)] * len(images) if regions is None else regions
        logits: Tensor = self.roi_heads.read(self.features(images), [Boxes(boxes) for boxes in given])[0]
        return logits

    def features(self, images: Tensor) -> dict[str, Tensor]:
        """The backbone's maps of images (B, C, H, W) in [0, 1], float32; padded to its stride, as detectron2 does."""
        converted = detectron2_images(images, len(self.pixel_mean), self.input_format)
        padded = self.preprocess_image([{"image": image} for image in converted]).tensor
        return {name: m.float() for name, m in self.backbone(padded).items()}

    def feature_map(self, images: Tensor) -> Tensor:
        return next(reversed(self.features(images).values()))


def detectron2_rcnn(options: Detectron2Options, dims: int, channels: int, classes: int) -> MedkdRCNN:
    """The detector of the options, its weights drawn from torch's global generator.

    Raises InputError: not 2-D, settings that this detectron2 does not know, parts that carry no soft labels.
    """
    if dims != 2:
        raise InputError(f"detector.kind is 'detectron2' and the images have {dims} axes; it detects in 2-D alone")
    cfg = configuration(options.settings, channels, classes)
    try:
        made: MedkdRCNN = build_model(cfg)
    except (AssertionError, KeyError, ValueError) as error:
        raise InputError(f"detectron2 {__version__} cannot build detector.settings: {error}") from None
    made.channels = channels
    return made


def configuration(settings: dict[str, Any], channels: int, classes: int) -> CfgNode:
    """detectron2's config of our parts. Nothing in it reads a file, downloads or chooses a device."""
    cfg = get_cfg()
    try:
        for tree in (PYRAMID, settings):
            cfg.merge_from_other_cfg(CfgNode(tree))
    except (AssertionError, KeyError, ValueError) as error:
        raise InputError(f"detector.settings do not fit detectron2 {__version__}: {error}") from None
    model = cfg.MODEL
    at = {name: _value(model, name) for name in (*OURS, *OFF)}
    wrong = [
        f"detector.settings.MODEL.{name} is {at[name]!r}; needed: {stock!r}"
        for name, (stock, _) in OURS.items()
        if at[name] != stock
    ]
    wrong += [
        f"detector.settings.MODEL.{name} is {at[name]!r}; boxes alone are trained: false" for name in OFF if at[name]
    ]
    asked = settings.get("MODEL", {}).get("ROI_HEADS", {}).get("NUM_CLASSES", classes)
    if asked != classes:
        wrong.append(f"detector.settings.MODEL.ROI_HEADS.NUM_CLASSES is {asked}; the data have {classes} classes")
    means = len(model.PIXEL_MEAN)
    if channels not in (1, means) or means != len(model.PIXEL_STD):
        wrong.append(
            f"detector.settings.MODEL has {means} PIXEL_MEAN and {len(model.PIXEL_STD)} PIXEL_STD; the images have "
            f"{channels} channels (one alone is repeated)"
        )
    if wrong:
        raise InputError(wrong)
    for name, (_, ours) in OURS.items():
        model.merge_from_list([name, ours])
    model.ROI_HEADS.NUM_CLASSES, model.DEVICE, model.WEIGHTS = classes, "cpu", ""
    return cfg


def _value(node: Any, name: str) -> Any:
    for part in name.split("."):
        node = node[part]
    return node
