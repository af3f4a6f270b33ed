"""Masked Generative Distillation (MGD): the student's masked features must suffice to generate the teacher's."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from medkd.distill.losses.projectors import applied, convolution
from medkd.distill.losses.shared import mean_squared_difference
from medkd.engine.tensors import need
from medkd.errors import InputError

Mask = Literal["spatial", "channel"]


def kept(uniform: Tensor, ratio: float) -> Tensor:
    """True where a number of [0, 1) keeps its place: a share `ratio` is masked."""
    return uniform <= 1.0 - ratio


class MGDLoss(nn.Module):
    """Mean of (G(mask * f_s) - f_t)^2; G, trained: a 1x1 convolution, then 3x3 convolution, ReLU, 3x3 convolution.

    ratio: the share of the student's positions (`spatial`) or channels (`channel`, for classification) set to zero;
    usual 0.65 to 0.75 spatial, 0.15 channel. The paper sums over channels and positions: its weight alpha (2e-5 dense,
    7e-5 classification) is alpha * C * H * W here, and then does not depend on the size of the features.

    Shape: student (B, C_s, *S), teacher (B, C_t, *S), uniform (B, *mask_shape); a scalar.
    Raises ValueError for other shapes; InputError for a ratio outside 0 to 1 (1 excluded) or an unknown mask.
    Reference: Yang et al., ECCV 2022, arXiv 2205.01529.

    >>> import torch
    >>> loss = MGDLoss(1, 1, spatial_dims=1, ratio=0.5)
    >>> loss.align = loss.generation = nn.Identity()
    >>> loss(torch.ones(1, 1, 2), torch.ones(1, 1, 2), torch.tensor([[[0.2, 0.8]]])).item()  # the second is masked
    0.5
    """

    def __init__(
        self,
        student_channels: int,
        teacher_channels: int,
        spatial_dims: int = 2,
        ratio: float = 0.65,
        mask: Mask = "spatial",
    ):
        super().__init__()
        if not 0 <= ratio < 1:
            raise InputError(f"ratio is {ratio}; it must be at least 0 and below 1")
        if mask not in ("spatial", "channel"):
            raise InputError(f"mask is {mask!r}; it must be 'spatial' or 'channel'")
        self.ratio, self.mask = ratio, mask
        self.align = convolution(spatial_dims, student_channels, teacher_channels)
        self.generation = nn.Sequential(
            convolution(spatial_dims, teacher_channels, teacher_channels, 3),
            nn.ReLU(),
            convolution(spatial_dims, teacher_channels, teacher_channels, 3),
        )

    def mask_shape(self, student: Tensor) -> tuple[int, ...]:
        """The shape of one sample's mask: (1, *S) or (C_s, 1, ...)."""
        spatial = student.shape[2:]
        return (1, *spatial) if self.mask == "spatial" else (student.shape[1], *[1] * len(spatial))

    def forward(self, student: Tensor, teacher: Tensor, uniform: Tensor) -> Tensor:
        """uniform: numbers in [0, 1), drawn once for a step."""
        need("uniform", uniform, [(student.shape[0], *self.mask_shape(student))])
        masked = student * kept(uniform, self.ratio).to(student.device, non_blocking=True)
        return mean_squared_difference(applied(self.generation, applied(self.align, masked)), teacher)
