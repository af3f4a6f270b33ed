"""Similarity-Preserving distillation (SP): which samples of a batch are alike."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.shared import full_precision, no_autocast
from medkd.engine.tensors import need
from medkd.errors import InputError


def similarity_preserving_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """|A_s - A_t|_F^2 / B^2, where A is F F^T with each row divided by its Euclidean length, F = f as (B, D).

    Any two networks can be compared. The loss is of the whole batch: micro-batches and ranks see only their own.

    Shape: student (B, ...), teacher (B, ...), of any size; a scalar.
    Raises ValueError for different batches; InputError for a batch of one, where A is always 1.
    Reference: Tung and Mori, ICCV 2019, arXiv 1907.09682.

    >>> import torch  # A_s = I, A_t all 1 / sqrt 2: (2 (1 - 0.7071)^2 + 2 (0.7071)^2) / 4
    >>> round(similarity_preserving_loss(torch.eye(2), torch.ones(2, 1)).item(), 6)
    0.292893
    """
    need("teacher", teacher, [(student.shape[0], *teacher.shape[1:])])
    if student.shape[0] < 2:
        raise InputError(f"similarities need 2 or more samples in the batch, not {len(student)}: enlarge the batch")
    s, t = full_precision(student, teacher)
    with no_autocast(s):
        difference = similarities(s) - similarities(t)
    return difference.square().mean()


def similarities(features: Tensor) -> Tensor:
    """(B, B): the Gram matrix of (B, ...), each row of Euclidean length 1."""
    f = features.flatten(1)
    return F.normalize(f @ f.T, dim=1)


class SimilarityPreservingLoss(nn.Module):
    """`similarity_preserving_loss`; usual weight 3000, on the last feature map."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return similarity_preserving_loss(student, teacher)
