"""SimKD: the student's features become the teacher's, and the teacher's own classifier is reused. Needs no labels."""

from __future__ import annotations

from torch import Tensor, nn

from medkd.distill.losses.projectors import applied, to_common_size
from medkd.distill.losses.shared import mean_squared_difference
from medkd.engine.tensors import at_least_float32
from medkd.errors import InputError
from medkd.networks.reused_head import bottleneck


def simkd_loss(projected: Tensor, teacher: Tensor) -> Tensor:
    """Mean of (P(f_s) - f_t)^2, the larger map average-pooled to the smaller.

    Shape: projected (B, C, *S), teacher (B, C, *S'); a scalar. Raises ValueError for other batches or channels.

    >>> import torch
    >>> simkd_loss(torch.ones(1, 2, 4), torch.full((1, 2, 1), 3.0)).item()
    4.0
    """
    return mean_squared_difference(*to_common_size(projected, teacher))


class MatchedFeatures(nn.Module):
    """`simkd_loss` of a student that has the projector inside (`networks/reused_head.py`)."""

    def forward(self, projected: Tensor, teacher: Tensor) -> Tensor:
        return simkd_loss(projected, teacher)


class SimKDLoss(nn.Module):
    """Mean of (P(f_s) - f_t)^2 of the last feature maps, after their ReLU, before the pooling.

    P, trained: 1x1, 3x3, 1x1 convolutions, each with batch normalisation and ReLU, teacher_channels / reduction
    channels in the middle: s t / r + 9 (t / r)^2 + t^2 / r weights. P and the teacher's head ship with the student:
    `logits` is the deployed prediction. Weight 1, and no other loss.

    Shape: student (B, C_s, *S), teacher (B, C_t, *S'), the larger map average-pooled to the smaller; a scalar.
    Raises ValueError for different batches, InputError where the reduction does not divide the teacher's channels.
    Reference: Chen et al., CVPR 2022, arXiv 2203.14001.

    >>> import torch
    >>> loss = SimKDLoss(2, 2, spatial_dims=1)
    >>> loss.projector = nn.Identity()
    >>> loss(torch.ones(1, 2, 4), torch.full((1, 2, 1), 3.0)).item()
    4.0
    """

    def __init__(self, student_channels: int, teacher_channels: int, spatial_dims: int = 2, reduction: int = 2):
        super().__init__()
        self.projector = bottleneck(spatial_dims, student_channels, teacher_channels, reduction)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        student, teacher = to_common_size(student, teacher)
        return simkd_loss(applied(self.projector, student), teacher)

    def logits(self, student: Tensor, head: nn.Module) -> Tensor:
        """(B, K): head( mean over positions of P(f_s) ). Raises InputError unless the head is linear and frozen."""
        if not isinstance(head, nn.Linear):
            raise InputError(f"SimKD reuses a linear classifier; this teacher's head is a {type(head).__name__}")
        if any(p.requires_grad for p in head.parameters()):
            raise InputError("the teacher's head must be frozen: call head.requires_grad_(False)")
        projected = at_least_float32(applied(self.projector, student))
        return applied(head, projected.flatten(2).mean(2))
