"""LEAF's embedding loss: the student's embedding of a case is the teacher's, so that both search one index."""

from __future__ import annotations

import warnings
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.shared import compared, masked_mean
from medkd.errors import InputError

Kind = Literal["squared", "distance", "cosine"]
KINDS = ("squared", "distance", "cosine")


def embedding_alignment_loss(
    student: Tensor, teacher: Tensor, kind: Kind = "squared", normalise: bool = False
) -> Tensor:
    """The mean over samples of |s - t|^2 (`squared`), |s - t| (`distance`) or 1 - cos(s, t) (`cosine`).

    The published text writes the squared length and does not say whether embeddings are normalised; normalise: divide
    both by their length first. Samples do not interact, so equal micro-batches give the gradient of the whole batch.

    Shape: both (B, D), the student's after its output layer to the teacher's D (which ships with it); a scalar.
    Raises ValueError for other shapes, InputError for an unknown kind.
    Reference: Vujanic and Rueckstiess 2025, arXiv 2509.12539.

    >>> import torch  # |s - t|^2 = 0.04 + 0.36 and 0
    >>> s, t = torch.tensor([[0.8, 0.6, 0], [0, 1, 0]]), torch.tensor([[1.0, 0, 0], [0, 1, 0]])
    >>> [round(embedding_alignment_loss(s, t, kind).item(), 6) for kind in KINDS]
    [0.2, 0.316228, 0.1]
    """
    if kind not in KINDS:
        raise InputError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
    s, t = compared(student, teacher)
    if s.ndim != 2:
        raise ValueError(f"student has shape {tuple(s.shape)}; needed: (B, D)")
    if kind == "cosine":
        return masked_mean(1.0 - F.cosine_similarity(s, t, dim=1))
    if normalise:
        s, t = F.normalize(s, dim=1), F.normalize(t, dim=1)
    if kind == "distance":
        return masked_mean(torch.linalg.vector_norm(s - t, dim=1))
    return masked_mean((s - t).square().sum(1))


class EmbeddingAlignmentLoss(nn.Module):
    """`embedding_alignment_loss` with stored options."""

    def __init__(self, kind: Kind = "squared", normalise: bool = False):
        super().__init__()
        if kind not in KINDS:
            raise InputError(f"kind is {kind!r}; it must be one of {', '.join(KINDS)}")
        if kind == "cosine" and normalise:
            warnings.warn("normalise has no effect on the cosine, which does so anyway", stacklevel=2)
        self.kind, self.normalise = kind, normalise

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        return embedding_alignment_loss(student, teacher, self.kind, self.normalise)
