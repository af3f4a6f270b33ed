"""From detections to labels that train: by confidence, and from two opinions. Nothing here changes its inputs."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from medkd.data.targets import Detections, Target
from medkd.detection.crops import overlap

Empty = Literal["skip", "background"]
Fusion = Literal["separate", "weighted", "agreement"]
MATCH = 0.55  # IoU from which two boxes of one class are one object


def confident(detections: Detections, threshold: float) -> Detections:
    """Those whose score is above the threshold; at 1 none. Raises ValueError for a NaN among scores or boxes."""
    bad = detections.scores.isnan().any() | detections.boxes.isnan().any()
    if bad:
        raise ValueError("detections hold NaN: they cannot become labels")
    return chosen(detections, detections.scores > threshold)


def as_target(detections: Detections, source: str, regress: bool, empty: Empty = "skip") -> Target | None:
    """Labels of the detections. An image without any is left out of the losses (`skip`: what was missed is not taught
    as background), or is `background` throughout."""
    if not len(detections) and empty == "skip":
        return None
    return Target(detections.boxes, detections.labels, regress=regress, source=source)


def fused(teacher: Detections, expert: Detections, how: Fusion) -> Detections:
    """One set from two. agreement: the teacher's boxes that the expert has too. weighted: boxes of both that match are
    averaged by their scores (weighted box fusion of two sources), the others stay with half their score."""
    pairs = matched(teacher, expert)
    if how == "agreement":
        return chosen(teacher, pairs >= 0)
    has = pairs >= 0
    mine, theirs, score = chosen(teacher, has), expert.boxes[pairs[has]], expert.scores[pairs[has]]
    total = (mine.scores + score).clamp(min=1e-12)[:, None]
    middle = (mine.boxes * mine.scores[:, None] + theirs * score[:, None]) / total
    alone = torch.ones(len(expert), dtype=torch.bool, device=pairs.device)
    alone[pairs[has]] = False
    rest = [chosen(teacher, ~has), chosen(expert, alone)]
    return Detections(
        torch.cat([middle, *(r.boxes for r in rest)]),
        torch.cat([mine.labels, *(r.labels for r in rest)]),
        torch.cat([(mine.scores + score) / 2, *(r.scores / 2 for r in rest)]),
    )


def matched(a: Detections, b: Detections, least: float = MATCH) -> Tensor:
    """(N,) for each box of a its match in b, or -1: the same class, each the other's best overlap, IoU >= least."""
    if not len(a) or not len(b):
        return torch.full((len(a),), -1, dtype=torch.int64, device=a.boxes.device)
    iou = torch.where(a.labels[:, None] == b.labels, overlap(a.boxes, b.boxes), 0.0)
    best, which = iou.max(1)
    mutual = iou.argmax(0)[which] == torch.arange(len(a), device=iou.device)
    return torch.where((best >= least) & mutual, which, -1)


def joined(a: Detections, b: Detections) -> Detections:
    """Both, one after the other, without their probabilities."""
    return Detections(torch.cat([a.boxes, b.boxes]), torch.cat([a.labels, b.labels]), torch.cat([a.scores, b.scores]))


def chosen(detections: Detections, rows: Tensor) -> Detections:
    """The detections in rows (N,) bool, as new objects."""
    d = detections
    probabilities = None if d.probabilities is None else d.probabilities[rows]
    return Detections(d.boxes[rows], d.labels[rows], d.scores[rows], probabilities)
