"""Relational Knowledge Distillation (RKD): distances and angles between the samples of a batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.shared import full_precision, no_autocast
from medkd.engine.tensors import need
from medkd.errors import InputError


def rkd_loss(student: Tensor, teacher: Tensor, distance_weight: float = 25.0, angle_weight: float = 50.0) -> Tensor:
    """distance_weight L_D + angle_weight L_A, each the mean smooth-L1 difference of student and teacher.

    L_D: of |x_i - x_j| / (mean of the distances above 0), over all B^2 pairs. L_A: of the cosine of the angle at x_i
    between x_j and x_k, over all B^3 triples. L_D does not see translation, rotation or scale of either side, nor does
    L_A. Where samples coincide their distance has gradient zero. O(B^3) memory. The loss is of the whole batch.

    Shape: student (B, D_s), teacher (B, D_t), pooled embeddings; a scalar.
    Raises ValueError for other shapes; InputError if both weights are 0, and for B < 3, where every normalised distance
    and angle is constant.
    Reference: Park et al., CVPR 2019, arXiv 1904.05068.

    >>> import torch  # on a line at 0, 1, 2 against 0, 1, 3: distances / mean 3/4, 3/4, 3/2 against 1/2, 1, 3/2
    >>> s, t = torch.tensor([[0.0], [1.0], [2.0]]), torch.tensor([[0.0], [1.0], [3.0]])
    >>> round(rkd_loss(s, t, 1.0, 1.0).item(), 6)  # 4 entries of 9 differ by 1/4: 4/9 (1/4)^2 / 2, and no angle does
    0.013889
    """
    for name, x in (("student", student), ("teacher", teacher)):
        if x.ndim != 2:
            raise ValueError(f"{name} has shape {tuple(x.shape)}; needed: (B, D): pool the features first")
    need("teacher", teacher, [(student.shape[0], teacher.shape[1])])
    if len(student) < 3:
        raise InputError(f"RKD needs 3 or more samples in the batch, not {len(student)}: enlarge the batch")
    if not (distance_weight or angle_weight):
        raise InputError("both weights of RKD are 0: nothing is compared")
    s, t = full_precision(student, teacher)
    loss = s.new_zeros(())
    with no_autocast(s):
        if distance_weight:
            loss = loss + distance_weight * F.smooth_l1_loss(normalised_distances(s), normalised_distances(t))
        if angle_weight:
            loss = loss + angle_weight * F.smooth_l1_loss(angles(s), angles(t))
    return loss


def normalised_distances(x: Tensor) -> Tensor:
    """(B, B): Euclidean distances over the mean of those above 0; zeros where all samples coincide."""
    distance = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
    mean = distance.sum() / (distance > 0).sum().clamp(min=1)
    relative: Tensor = distance / mean.where(mean > 0, 1)
    return relative


def angles(x: Tensor) -> Tensor:
    """(B, B, B): at [i, j, k] the cosine of the angle at x_i between x_j and x_k; zero where two of them coincide."""
    difference = x[None] - x[:, None]
    length = torch.linalg.vector_norm(difference, dim=2, keepdim=True)
    unit = difference / length.where(length > 0, 1)
    cosine: Tensor = unit @ unit.mT
    return cosine


class RKDLoss(nn.Module):
    """`rkd_loss` with stored weights."""

    def __init__(self, distance_weight: float = 25.0, angle_weight: float = 50.0):
        super().__init__()
        self.distance_weight, self.angle_weight = distance_weight, angle_weight

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return rkd_loss(student, teacher, self.distance_weight, self.angle_weight)
