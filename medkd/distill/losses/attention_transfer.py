"""Attention Transfer (AT): where the features are strong, whatever their channels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.projectors import to_common_size
from medkd.distill.losses.shared import masked_mean
from medkd.errors import InputError

Mode = Literal["code", "paper"]


def attention_transfer_loss(student: Tensor, teacher: Tensor, power: float = 2.0, mode: Mode = "code") -> Tensor:
    """Distance of the attention maps Q(f) = v / |v|, v = vec( mean over channels of |f|^p ).

    `code` (the published code): the mean of (Q_s - Q_t)^2 over samples and positions; `paper`: |Q_s - Q_t|, the mean
    over samples. The larger map is average-pooled to the smaller before that.

    Shape: student (B, C_s, *S), teacher (B, C_t, *S'); a scalar.
    Raises ValueError for different batches; InputError for p < 1, an unknown mode, or maps of one position, which are
    all alike after normalisation.
    Reference: Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928. Between families it is worse than no teacher.

    >>> import torch  # |f|^2 = (9, 0) and (0, 16): Q = (1, 0) and (0, 1)
    >>> s, t = torch.tensor([[[-3.0, 0.0]]]), torch.tensor([[[0.0, 4.0]]])
    >>> attention_transfer_loss(s, t).item(), round(attention_transfer_loss(s, t, mode="paper").item(), 6)
    (1.0, 1.414214)
    """
    checked(power, mode)
    if student.ndim < 3:
        raise ValueError(f"student has shape {tuple(student.shape)}; needed: (B, C, *S), a map over space")
    student, teacher = to_common_size(student, teacher)
    s, t = attention_map(student, power), attention_map(teacher, power)
    if s.shape[1] < 2:
        raise InputError("attention maps of 1 position are all alike: compare features before the pooling")
    if mode == "paper":
        return masked_mean(torch.linalg.vector_norm(s - t, dim=1))
    return masked_mean((s - t).square())


def attention_map(features: Tensor, power: float = 2.0) -> Tensor:
    """Q(f) of (B, C, *S): (B, N), each row of length 1. The absolute value matters for odd powers."""
    size = features if power % 2 == 0 else features.abs()  # an even power needs none, nor its gradient
    return F.normalize(size.pow(power).mean(1).flatten(1), dim=1)


def checked(power: float, mode: str) -> None:
    """Raise InputError for options out of range."""
    if not power >= 1:
        raise InputError(f"power is {power}; it must be 1 or more")
    if mode not in ("code", "paper"):
        raise InputError(f"mode is {mode!r}; it must be 'code' or 'paper'")


class AttentionTransferLoss(nn.Module):
    """The sum of `attention_transfer_loss` over pairs of layers, with stored options. Usual weight 1000 (`code`)."""

    def __init__(self, power: float = 2.0, mode: Mode = "code"):
        super().__init__()
        checked(power, mode)
        self.power, self.mode = power, mode

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """student, teacher: as many maps each, in the same order."""
        if not student or len(student) != len(teacher):
            raise ValueError(f"{len(student)} student and {len(teacher)} teacher layers; needed: as many, at least 1")
        return torch.stack(
            [attention_transfer_loss(s, t, self.power, self.mode) for s, t in zip(student, teacher)]
        ).sum()
