"""One minus the concordance correlation (CCC), for continuous scores (Wav2Small): order, spread and mean all count."""

from __future__ import annotations

from typing import Literal

from torch import Tensor, nn

from medkd.distill.losses.shared import compared
from medkd.errors import InputError

Reduction = Literal["mean", "sum"]


def concordance_loss(student: Tensor, teacher: Tensor, reduction: Reduction = "mean", eps: float = 1e-8) -> Tensor:
    """1 - CCC of each score over the batch, CCC = 2 cov / (var_s + var_t + (mean_s - mean_t)^2 + eps).

    Variances are those of the population (divided by n). Two constants have CCC 0, whatever their values. Small
    batches estimate CCC too low: use 64 or more. The loss is of the whole batch, so micro-batches do not add up to it.

    Shape: both (B) or (B, D), D scores; a scalar, the mean over scores or their sum (the paper's).
    Raises ValueError for other shapes; InputError for one sample, which has no variance, or an unknown reduction.
    Reference: Lin 1989; Kounadis-Bastian et al. 2024, arXiv 2408.13920.

    >>> import torch  # off by one: cov = var = 2, so CCC = 4 / (4 + 1)
    >>> round(concordance_loss(torch.arange(2.0, 7), torch.arange(1.0, 6)).item(), 6)
    0.2
    """
    checked(reduction)
    s, t = compared(student, teacher)
    if s.ndim not in (1, 2):
        raise ValueError(f"student has shape {tuple(s.shape)}; needed: (B) or (B, D)")
    if len(s) < 2:
        raise InputError(f"the concordance needs 2 or more samples in the batch, not {len(s)}: enlarge the batch")
    s_mean, t_mean = s.mean(0), t.mean(0)
    s, t = s - s_mean, t - t_mean
    spread = s.square().mean(0) + t.square().mean(0) + (s_mean - t_mean).square()
    each = 1.0 - 2.0 * (s * t).mean(0) / (spread + eps)
    return each.sum() if reduction == "sum" else each.mean()


def checked(reduction: str) -> None:
    """Raise InputError for an unknown reduction."""
    if reduction not in ("mean", "sum"):
        raise InputError(f"reduction is {reduction!r}; it must be 'mean' or 'sum'")


class ConcordanceLoss(nn.Module):
    """`concordance_loss` with stored options."""

    def __init__(self, reduction: Reduction = "mean", eps: float = 1e-8):
        super().__init__()
        checked(reduction)
        self.reduction, self.eps = reduction, eps

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return concordance_loss(student, teacher, self.reduction, self.eps)
