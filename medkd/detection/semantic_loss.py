"""The semantic-aware loss of Grounded Teacher (card 3.4): confusions of foreground classes weigh more."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from medkd.engine.tensors import at_least_float32, need
from medkd.errors import InputError

Mode = Literal["sqrt", "probability", "none"]
UNKNOWN = 1e-3  # what an empty entry of a row that was seen counts as


def severity(matrix: Tensor, mode: Mode = "sqrt") -> Tensor:
    """S, of the shape of the matrix (K, K) or (K, K+1): what a region of class i called j weighs before normalisation.

    sqrt: S_ii = sqrt(1 - C_ii), S_ij = sqrt(C_ij / C_ii). probability: 1 - C_ii and C_ij. Missing information is
    filled in: a row never seen is uniform, an empty diagonal too, another empty entry is 0.001.

    >>> c = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])
    >>> [[round(v, 6) for v in row] for row in severity(c).tolist()]
    [[0.447214, 0.353553, 0.353553], [0.707107, 0.632456, 0.408248], [0.632456, 0.774597, 0.707107]]
    """
    classes, columns = matrix.shape
    diagonal = torch.eye(classes, columns, dtype=torch.bool, device=matrix.device)
    uniform = diagonal | (matrix.sum(1, keepdim=True) == 0)
    c = torch.where(matrix > 0, matrix, torch.where(uniform, 1 / columns, UNKNOWN))
    own = c.diagonal()[:, None]
    if mode == "probability":
        return torch.where(diagonal, 1 - c, c)
    return torch.where(diagonal, (1 - c).clamp(min=0).sqrt(), (c / own).sqrt())


def semantic_weights(
    gt: Tensor,
    predicted: Tensor,
    matrix: Tensor,
    lam: float = 1.0,
    mode: Mode = "sqrt",
    total: Callable[[Tensor], Tensor] = lambda values: values,
) -> Tensor:
    """w (R,) of regions with labels and predictions (R,) in 0..K, K = background; no gradient.

    Where both are foreground, (S / mean S + lam) / (1 + lam), whose mean is 1; elsewhere 1. A matrix with a background
    column also weighs regions of a class that are called background. A perfect matrix, S = 0, gives 1.
    total: the sum over the ranks. Raises ValueError for shapes that do not fit, InputError for lam < 0.
    """
    need("predicted", predicted, [gt.shape])
    if lam < 0:
        raise InputError(f"lam is {lam}; allowed: 0 or more (large values approach plain cross-entropy)")
    classes, columns = matrix.shape
    weighed = (gt < classes) & (predicted < columns)
    if mode == "none":
        return torch.ones_like(gt, dtype=matrix.dtype)
    s = severity(matrix.detach(), mode)
    raw = s[gt.clamp(max=classes - 1), predicted.clamp(max=columns - 1)].where(weighed, 0)
    sums = total(torch.stack([raw.sum(), weighed.sum().to(raw)]))
    relative = torch.where(sums[0] > 0, raw * sums[1] / sums[0].clamp(min=torch.finfo(raw.dtype).tiny), 1.0)
    return torch.where(weighed, (relative + lam) / (1 + lam), 1.0)


def semantic_aware_loss(
    logits: Tensor,
    target: Tensor,
    gt: Tensor,
    matrix: Tensor,
    lam: float = 1.0,
    mode: Mode = "sqrt",
    weight: Tensor | None = None,
    total: Callable[[Tensor], Tensor] = lambda values: values,
) -> Tensor:
    """sum_r w_r CE(z_r, y_r) / R with soft-target cross-entropy; w from `semantic_weights` of gt and argmax z.

    Shape: logits and target (R, K+1), last column background; gt (R,) int64 in 0..K; matrix (K, K) or (K, K+1);
    weight (R,) multiplies the terms further; a scalar, zero with a graph for R = 0.
    total: the sum over the ranks, so that the mean over ranks of the gradients is the whole batch's.
    Raises ValueError for other shapes. Reference: card 3.4, after Ashraf et al., arXiv 2504.15404.

    >>> z, c = torch.zeros(1, 3), torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    >>> round(semantic_aware_loss(z, torch.tensor([[1.0, 0, 0]]), torch.tensor([0]), c).item(), 6)  # ln 3
    1.098612
    """
    need("target", target, [logits.shape])
    need("gt", gt, [logits.shape[:1]])
    if logits.shape[1] != len(matrix) + 1:
        raise ValueError(f"logits have {logits.shape[1]} columns; needed: {len(matrix) + 1}, background last")
    z = at_least_float32(logits)
    w = semantic_weights(gt, z.argmax(1), matrix, lam, mode, total)
    ce = -(target.to(z) * z.log_softmax(1)).sum(1)
    ce = ce * w.to(z) if weight is None else ce * w.to(z) * weight.to(z)
    return total(ce.sum()) / total(torch.full_like(ce.sum(), float(len(ce))).detach()).clamp(min=1)


class SemanticAwareLoss(nn.Module):
    """`semantic_aware_loss` with stored options. lam 1 halves the contrast of the weights, lam 0 leaves it whole."""

    def __init__(self, lam: float = 1.0, mode: Mode = "sqrt"):
        super().__init__()
        if lam < 0:
            raise InputError(f"lam is {lam}; allowed: 0 or more (large values approach plain cross-entropy)")
        self.lam, self.mode = lam, mode

    def forward(
        self,
        logits: Tensor,
        target: Tensor,
        gt: Tensor,
        matrix: Tensor,
        weight: Tensor | None = None,
        total: Callable[[Tensor], Tensor] = lambda values: values,
    ) -> Tensor:
        return semantic_aware_loss(logits, target, gt, matrix, self.lam, self.mode, weight, total)
