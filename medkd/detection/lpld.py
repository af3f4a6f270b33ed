"""LPLD (sfod_baselines.md, B11): what the teacher is not sure enough of to label is distilled softly.

    of the teacher's proposals, those
        that lie, moved by its box deltas, away from every confident label (IoU <= iou_max),
        one class of which holds nearly all of the foreground, and which are not plain background
    loss = mean over them of (1 - cosine of the two networks' features) KL(target || student) / 10,
    target = the softmax over the foreground alone: what background the teacher saw is taken out

Our reading where the card is silent: both networks read the proposals; the moved box only decides what is away.
"""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from medkd.detection.baseline_options import LpldOptions
from medkd.detection.detectors.protocol import Scene
from medkd.detection.region_teacher import RegionTeacher, Taught

SHARE = 10  # the loss is divided by
NO_BACKGROUND = 1e-9


class Lpld(RegionTeacher):
    options: LpldOptions
    terms = ("low",)

    def __init__(self, student: nn.Module, options: LpldOptions):
        super().__init__(student, options)
        if student.classes == 1:
            warnings.warn(
                "with one class the softmax over the foreground is 1 everywhere: LPLD teaches every proposal that is "
                "not plain background to be an object",
                stacklevel=2,
            )

    def region_losses(self, student: Scene, taught: Taught) -> dict[str, Tensor]:
        o, proposals = self.options, taught.scene.proposals
        counts = [len(p) for p in proposals]
        with torch.no_grad():
            theirs = taught.scene.features(proposals)
            logits, deltas = taught.scene.classify(theirs)
            moved = taught.scene.moved(proposals, logits, deltas)
            kept = torch.cat(
                [
                    low_confidence(z, box, sure.boxes, o.iou_max, o.foreground_min, o.background_max)
                    for z, box, sure in zip(logits.split(counts), moved.split(counts), taught.sure)
                ]
            )
        chosen = [p[k] for p, k in zip(proposals, kept.split(counts))]
        mine = student.features(chosen)
        cosine = F.cosine_similarity(mine.detach(), theirs[kept], dim=1)
        return {"low": o.low_weight * distilled(student.classify(mine)[0], logits[kept], cosine)}


def low_confidence(
    logits: Tensor, moved: Tensor, sure: Tensor, iou_max: float, foreground_min: float, background_max: float
) -> Tensor:
    """(R,) bool: the proposals to distil. logits: (R, K + 1) of the teacher, background last; moved: (R, 4) proposals
    after its deltas; sure: (N, 4) boxes of the labels."""
    away = box_iou(moved, sure).amax(1) <= iou_max if len(sure) else torch.ones_like(logits[:, 0], dtype=torch.bool)
    one_class = logits[:, :-1].softmax(1).amax(1) >= foreground_min
    return away & one_class & (logits.softmax(1)[:, -1] <= background_max)


def distilled(student: Tensor, teacher: Tensor, cosine: Tensor) -> Tensor:
    """The loss from logits (N, K + 1), background last, and cosines (N,); 0 with a graph for N = 0.

    >>> z = torch.tensor([[3.0, 0, 2]])
    >>> round(distilled(torch.tensor([[1.0, 0, 2]]), z, torch.tensor([0.5])).item(), 6)
    0.063208
    """
    target = F.pad(teacher[:, :-1].softmax(1), (0, 1), value=NO_BACKGROUND)
    divergence = (target * (target.log() - student.log_softmax(1))).sum(1)
    return ((1 - cosine) * divergence).sum() / max(1, len(student)) / SHARE
