"""Plackett-Luce Distillation (PLD): the student learns one ranking of the classes, the true label first."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from medkd.distill.losses.shared import (
    compared_logits,
    label_mask,
    masked_mean,
    require_classes,
    require_positive,
)


def pld_loss(
    student: Tensor, teacher: Tensor, labels: Tensor, teacher_temperature: float = 1.0, ignore_index: int = -100
) -> Tensor:
    """sum_k a_k ( logsumexp(z_pi_k, ..., z_pi_C) - z_pi_k ), the mean over valid samples and voxels.

    pi is the label followed by the other classes in the teacher's order; a_k = softmax(z_t / T) at pi_k. The student's
    logits z carry no temperature. The loss contains the cross-entropy: do not add one. It is convex, with infimum 0
    only for ever wider gaps: the student becomes sharper than the teacher, so check its calibration. With two classes
    it is the teacher's probability of the label times the cross-entropy.

    Shape: student, teacher (B, C) or (B, C, *S); labels (B) or (B, *S) int64; a scalar. O(C log C) a voxel: give it a
    sample of the voxels of a large volume.
    Raises ValueError for other shapes; InputError for T <= 0 and for one class.
    Reference: Bassam, Zhu, Bian, NeurIPS 2025, arXiv 2506.12542.

    >>> import torch  # label 1 first, then classes 0 and 2; teacher 1/4, 1/2, 1/4: 1/2 ln 3 + 1/4 ln 2 + 1/4 ln 1
    >>> round(pld_loss(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 1.0]]).log(), torch.tensor([1])).item(), 6)
    0.722593
    """
    require_positive(teacher_temperature=teacher_temperature)
    s, t = compared_logits(student, teacher)
    labels, valid = label_mask(labels, student, ignore_index)
    order = ranking(t, labels)
    weights = (t / teacher_temperature).softmax(1).gather(1, order)
    return masked_mean(plackett_luce_loss(s.gather(1, order), weights), valid)


def ranking(teacher: Tensor, labels: Tensor) -> Tensor:
    """(B, C, *S): the label, then the other classes by falling teacher logit; equal logits in the order of classes."""
    classes_last = teacher.scatter(1, labels[:, None], torch.inf).movedim(1, -1).contiguous()  # sorts faster
    return classes_last.argsort(dim=-1, descending=True, stable=True).movedim(-1, 1).contiguous()


def plackett_luce_loss(ranked: Tensor, weights: Tensor) -> Tensor:
    """(B, *S): sum_k w_k ( logsumexp(z_k, ..., z_C) - z_k ) of logits (B, C, *S) in the order of their ranking.

    Weights (1, 0, ..., 0) give the cross-entropy, equal weights ListMLE.
    """
    *better, last = ranked.unbind(1)
    rest, loss = last, torch.zeros_like(last)  # of the last one nothing is left: it adds 0
    for z, weight in zip(reversed(better), reversed(weights.unbind(1)[:-1])):
        rest = torch.logaddexp(rest, z)  # a class at a time: a quarter of the time of logcumsumexp and its gradient
        loss = loss + weight * (rest - z)
    return loss


class PLDLoss(nn.Module):
    """`pld_loss` with stored options. Warns for two classes, where the teacher only weighs the samples."""

    includes_task_loss = True
    """It takes the place of cross-entropy plus distillation."""

    def __init__(self, classes: int, teacher_temperature: float = 1.0, ignore_index: int = -100):
        super().__init__()
        require_positive(teacher_temperature=teacher_temperature)
        if classes == 2:
            warnings.warn(
                "PLD with 2 classes is cross-entropy, each sample weighted by the teacher's probability of its label",
                stacklevel=2,
            )
        self.classes, self.teacher_temperature, self.ignore_index = classes, teacher_temperature, ignore_index

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        require_classes(student, self.classes)
        return pld_loss(student, teacher, labels, self.teacher_temperature, self.ignore_index)
