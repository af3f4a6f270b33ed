"""Boundary-Privileged Knowledge Distillation (BPKD): class borders pixel by pixel, and the shape of what they hold."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

from medkd.distill.losses.class_edges import edges, kernel_sides
from medkd.distill.losses.cwd import spatial_kl
from medkd.distill.losses.projectors import pooled
from medkd.distill.losses.shared import (
    compared_logits,
    masked_mean,
    require_classes,
    require_positive,
    softened_kl,
)
from medkd.errors import InputError

Normalisation = Literal["paper", "stable"]
WEIGHTS: dict[str, tuple[float, float]] = {"paper": (20.0, 50.0), "stable": (3.0, 3.0)}
"""Usual weights of body and edge."""


def bpkd_terms(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    kernel: int | Sequence[int] = 7,
    normalisation: Normalisation = "paper",
    alpha: float = 2.0,
    temperature: float = 1.0,
    ignore_index: int = -100,
) -> tuple[Tensor, Tensor]:
    """(edge, body), two scalars. With M the edge mask of each class (`soft_edges`), Z the logits, i the positions:

    edge  phi_i = T^2 KL over classes of softmax(Z_t M / T) || softmax(Z_s M / T)
          paper   alpha sum_c 1 / n_c  sum_i phi_i M_ci, the mean over samples; n_c = sum_i M_ci, of each sample
          stable  alpha sum phi_i M_ci / sum M_ci, both over samples, classes and positions
    body  T^2 KL over positions of softmax(Z_t (1 - M) / T) || softmax(Z_s (1 - M) / T)
          paper   edge positions are set to zero but stay in the softmax; the mean over maps
          stable  edge positions (M = 1) are left out; the mean over maps with a body

    A class without an edge adds nothing to the edge, and without any edge the body is CWD. Ignored voxels add nothing,
    and a border with them is no edge. A constant on all classes of a voxel changes the loss: M depends on the class.

    Shape: student, teacher (B, C, *S'); labels (B, *S) int64, S at least S'.
    Raises ValueError for other shapes; InputError for T <= 0, one class, or an even kernel.
    Reference: Liu et al., WACV 2024, arXiv 2306.08075; no training code was published, and `stable` is our reading of
    a port's.

    >>> import torch  # the two voxels at the border, (1/2, 1/2) against (1/4, 3/4): 2 classes * 2 * 0.130812
    >>> labels, teacher = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1]]), torch.zeros(1, 2, 8)
    >>> teacher[0, 1, 3:5] = torch.tensor(3.0).log()
    >>> [round(x.item(), 6) for x in bpkd_terms(torch.zeros(1, 2, 8), teacher, labels, kernel=3)]
    [0.523248, 0.0]
    """
    require_positive(temperature=temperature)
    if normalisation not in WEIGHTS:
        raise InputError(f"normalisation is {normalisation!r}; it must be 'paper' or 'stable'")
    s, t = compared_logits(student, teacher)
    edge, valid = soft_edges(labels, s, kernel, ignore_index)
    phi = softened_kl(s * edge, t * edge, temperature)[:, None]
    if normalisation == "paper":
        size = edge.flatten(2).sum(2)
        each = (phi * edge).flatten(2).sum(2) / size.where(size > 0, 1)
        edge_loss = masked_mean(each.sum(1))
        keep = valid.expand_as(edge)
    else:
        size = edge.sum()
        edge_loss = (phi * edge).sum() / size.where(size > 0, 1)
        keep = valid & (edge < 1)
    body = spatial_kl(s * (1 - edge), t * (1 - edge), temperature, keep)
    return temperature**2 * alpha * edge_loss, temperature**2 * masked_mean(body, keep.flatten(2).any(2))


def soft_edges(
    labels: Tensor, logits: Tensor, kernel: int | Sequence[int], ignore_index: int = -100
) -> tuple[Tensor, Tensor]:
    """(the share of each cell of the logits' grid on the border of each class (B, C, *S'), has it a valid voxel
    (B, 1, *S')). The share is of the cell's valid voxels."""
    size = logits.shape[2:]
    fits = labels.ndim == logits.ndim - 1 and len(labels) == len(logits)
    if not fits or any(a < b for a, b in zip(labels.shape[1:], size)):
        raise ValueError(
            f"labels has shape {tuple(labels.shape)}; needed: ({len(logits)}, *S), S at least {tuple(size)}"
        )
    valid = (labels != ignore_index)[:, None].to(logits.dtype)
    edge = edges(labels, logits.shape[1], kernel, ignore_index).to(logits.dtype)
    share = pooled(valid, size)
    return pooled(edge, size) / share.where(share > 0, 1), share > 0


class BPKDLoss(nn.Module):
    """body_weight body + edge_weight edge of `bpkd_terms`, with stored options; beside it cross-entropy is added.

    normalisation: `paper` in 2-D and `stable` in 3-D unless said; the weights follow it (20 and 50, or 3 and 3).
    kernel: 7 voxels, or of `edge_kernel` for anisotropic scans. Thin structures need a small one, or no body is left.
    """

    def __init__(
        self,
        classes: int,
        spatial_dims: int = 2,
        kernel: int | Sequence[int] = 7,
        normalisation: Normalisation | None = None,
        body_weight: float | None = None,
        edge_weight: float | None = None,
        alpha: float = 2.0,
        temperature: float = 1.0,
        ignore_index: int = -100,
    ):
        super().__init__()
        require_positive(temperature=temperature)
        self.normalisation: Normalisation = normalisation or ("paper" if spatial_dims < 3 else "stable")
        if self.normalisation not in WEIGHTS:
            raise InputError(f"normalisation is {normalisation!r}; it must be 'paper' or 'stable'")
        self.kernel = kernel_sides(kernel, spatial_dims)
        body, edge = WEIGHTS[self.normalisation]
        self.body_weight = body if body_weight is None else body_weight
        self.edge_weight = edge if edge_weight is None else edge_weight
        self.classes, self.alpha, self.temperature, self.ignore_index = classes, alpha, temperature, ignore_index

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        edge, body = self.terms(student, teacher, labels)
        return self.body_weight * body + self.edge_weight * edge

    def terms(self, student: Tensor, teacher: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(edge, body), unweighted."""
        require_classes(student, self.classes)
        return bpkd_terms(
            student, teacher, labels, self.kernel, self.normalisation, self.alpha, self.temperature, self.ignore_index
        )
