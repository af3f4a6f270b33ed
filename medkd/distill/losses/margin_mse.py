"""Margin-MSE: by how much the relevant case outscores another one, for retrieval and ranking."""

from __future__ import annotations

from torch import Tensor, nn

from medkd.distill.losses.shared import compared, masked_mean, require_positive
from medkd.engine.tensors import need


def margin_mse_loss(
    student_positive: Tensor,
    student_negative: Tensor,
    teacher_positive: Tensor,
    teacher_negative: Tensor,
    scale: float = 1.0,
) -> Tensor:
    """Mean of ( scale (s+_S - s-_S) - (s+_T - s-_T) )^2, over queries and negatives.

    Scores of the query with a relevant (+) and another case (-). A constant added to all scores of a query, by either
    side, changes nothing; a scaled teacher does. scale: for a student of cosines, whose margin is at most 2. A negative
    teacher margin is kept: it tells of a wrongly labelled pair.

    Shape: positive (B); negative (B) or (B, n); a scalar.
    Raises ValueError for other shapes, InputError for scale <= 0.
    Reference: Hofstaetter et al. 2020, arXiv 2010.02666.

    >>> import torch  # margins 1 and -0.5 against 1.5 and -1
    >>> s, t = (torch.tensor([2, 1.0]), torch.tensor([1, 1.5])), (torch.tensor([9, 7.0]), torch.tensor([7.5, 8]))
    >>> margin_mse_loss(*s, *t).item()
    0.25
    """
    require_positive(scale=scale)
    if student_negative.ndim not in (1, 2):
        raise ValueError(f"student_negative has shape {tuple(student_negative.shape)}; needed: (B) or (B, n)")
    need("student_positive", student_positive, [student_negative.shape[:1]])
    s_positive, t_positive = compared(student_positive, teacher_positive)
    s_negative, t_negative = compared(student_negative, teacher_negative)
    if s_negative.ndim == 2:
        s_positive, t_positive = s_positive[:, None], t_positive[:, None]
    return masked_mean((scale * (s_positive - s_negative) - (t_positive - t_negative)).square())


class MarginMSELoss(nn.Module):
    """`margin_mse_loss` with a stored scale."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        require_positive(scale=scale)
        self.scale = scale

    def forward(
        self, student_positive: Tensor, student_negative: Tensor, teacher_positive: Tensor, teacher_negative: Tensor
    ) -> Tensor:
        return margin_mse_loss(student_positive, student_negative, teacher_positive, teacher_negative, self.scale)
