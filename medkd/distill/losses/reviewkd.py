"""ReviewKD: deep student stages, fused into shallower ones, learn the teacher's features at every level."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.projectors import applied, convolution, normalised_convolution, pooled
from medkd.distill.losses.shared import compared, masked_mean
from medkd.errors import InputError

POOLED_TO = (4, 2, 1)


def hierarchical_context_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """Mean squared difference at full size and average-pooled to 4, 2 and 1, weighted 1, 1/2, 1/4, 1/8 over their sum.

    A level not smaller than the map (its shortest side) is left out and takes no weight: the next one is weighted as
    if it were not there. The weights therefore sum to 1.875 above side 4, 1.75 for 3 and 4, 1.5 for 2, 1 for 1.

    Shape: both (B, C, *S); a scalar. Raises ValueError for different shapes.
    Reference: Chen et al., CVPR 2021, arXiv 2104.09044.

    >>> import torch  # (1, 0) against 0: 1/2 at full size, (1/2)^2 pooled to 1: (1/2 + 1/2 * 1/4) / 1.5
    >>> round(hierarchical_context_loss(torch.tensor([[[1.0, 0.0]]]), torch.zeros(1, 1, 2)).item(), 6)
    0.416667
    """
    s, t = compared(student, teacher)
    if s.ndim < 3:
        raise ValueError(f"student has shape {tuple(s.shape)}; needed: (B, C, *S), maps over space")
    difference = s - t  # pooling is linear: one pooling of the difference serves both
    dims, side = s.ndim - 2, min(s.shape[2:])
    loss, weight, total = masked_mean(difference.square()), 1.0, 1.0
    for size in (size for size in POOLED_TO if size < side):
        weight /= 2
        loss, total = loss + weight * masked_mean(pooled(difference, [size] * dims).square()), total + weight
    return loss / total


class Fusion(nn.Module):
    """Attention-based fusion of one student stage with the deeper ones, and the map to the teacher's channels."""

    def __init__(self, dims: int, inputs: int, middle: int, outputs: int, deepest: bool):
        super().__init__()
        self.reduce = normalised_convolution(dims, inputs, middle, relu=False)
        self.attention = None if deepest else convolution(dims, 2 * middle, 2)
        self.expand = normalised_convolution(dims, middle, outputs, 3, relu=False)

    def forward(self, stage: Tensor, deeper: Tensor | None, size: Sequence[int]) -> tuple[Tensor, Tensor]:
        """(in the teacher's channels at `size`, the fused residual for the next stage)."""
        fused = applied(self.reduce, stage)
        if self.attention is not None and deeper is not None:
            deeper = F.interpolate(deeper, fused.shape[2:])
            share = self.attention(torch.cat([fused, deeper], 1)).sigmoid()
            fused = fused * share[:, :1] + deeper * share[:, 1:]
        at_size = fused if fused.shape[2:] == torch.Size(size) else F.interpolate(fused, tuple(size))
        return self.expand(at_size), fused


class ReviewKDLoss(nn.Module):
    """The sum of `hierarchical_context_loss` over levels, of student stages fused from the deepest up. All trained.

    student_channels, teacher_channels: of the stages, deepest first; middle: channels while fusing, the deepest
    student stage's by default, at most 512. Usual weight 1 to 5, ramped up over 20 epochs.
    Raises InputError for lists of different lengths.
    """

    def __init__(
        self,
        student_channels: Sequence[int],
        teacher_channels: Sequence[int],
        spatial_dims: int = 2,
        middle: int | None = None,
    ):
        super().__init__()
        if not student_channels or len(student_channels) != len(teacher_channels):
            raise InputError(
                f"{len(student_channels)} student, {len(teacher_channels)} teacher stages; needed: as many, at least 1"
            )
        middle = middle or min(512, student_channels[0])
        self.fusions = nn.ModuleList(
            Fusion(spatial_dims, s, middle, t, deepest=level == 0)
            for level, (s, t) in enumerate(zip(student_channels, teacher_channels))
        )

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """Maps (B, C, *S), deepest first; the teacher's before their activation."""
        if len(student) != len(self.fusions) or len(teacher) != len(self.fusions):
            raise ValueError(f"{len(student)} student and {len(teacher)} teacher maps; needed: {len(self.fusions)}")
        losses, deeper = [], None
        for fusion, s, t in zip(self.fusions, student, teacher):
            if self.training and s.shape[0] == s.shape[2:].numel() == 1:
                raise InputError("one sample of one position cannot be batch-normalised: enlarge the batch")
            projected, deeper = fusion(s, deeper, t.shape[2:])
            losses.append(hierarchical_context_loss(projected, t))
        return torch.stack(losses).sum()
