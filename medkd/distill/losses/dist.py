"""DIST: the correlation of the class probabilities, within each sample and within each class, not their values."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from medkd.distill.losses.shared import compared_logits, masked_mean, require_classes, require_positive
from medkd.engine.tensors import need
from medkd.errors import InputError


def dist_loss(
    student: Tensor,
    teacher: Tensor,
    beta: float = 1.0,
    gamma: float = 1.0,
    temperature: float = 1.0,
    valid: Tensor | None = None,
) -> Tensor:
    """T^2 (beta inter + gamma intra), with rho Pearson's correlation and p = softmax(z / T).

    inter = 1 - mean over samples of rho(p_s, p_t) across classes; intra = 1 - mean over classes of rho across samples.
    The voxels of dense logits are samples; intra is of the whole batch, and micro-batches and ranks see only their own.
    rho = <a, b> / (|a| |b| + 1e-8) of the centred vectors: the 1e-8 is part of the definition, and shows where a vector
    is almost constant.

    Shape: student, teacher (B, C) or (B, C, *S); valid (B) or (B, *S) bool; a scalar.
    Raises ValueError for other shapes; InputError for T <= 0, one class, both weights 0, or (gamma > 0) fewer than 3
    samples: rho of two numbers is -1 or 1 and teaches nothing. With two classes the same holds for inter.
    Reference: Huang et al., NeurIPS 2022, arXiv 2205.10536.

    >>> import torch  # rows (1/2, 1/3, 1/6) against (1/3, 1/2, 1/6): rho = (0 + 0 + 1/36) / (2/36) = 1/2
    >>> s, t = torch.tensor([[3.0, 2.0, 1.0]]).log(), torch.tensor([[2.0, 3.0, 1.0]]).log()
    >>> round(dist_loss(s, t, gamma=0.0).item(), 6)
    0.5
    """
    require_positive(temperature=temperature)
    if not (beta or gamma):
        raise InputError("beta and gamma of DIST are both 0: nothing is compared")
    s, t = compared_logits(student, teacher)
    if valid is not None:
        need("valid", valid, [(s.shape[0], *s.shape[2:])])
        valid = valid.flatten()
    s, t = (rows((z / temperature).softmax(1)) for z in (s, t))
    if gamma and len(s) < 3:
        raise InputError(f"DIST between classes needs 3 or more samples or voxels, not {len(s)}: enlarge the batch")
    loss = s.new_zeros(())
    if beta:
        loss = loss + beta * masked_mean(1.0 - pearson(s, t, dim=1), valid)
    if gamma:
        loss = loss + gamma * between_samples(s, t, valid)
    return temperature**2 * loss


def between_samples(student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
    """1 - the mean over classes of rho across the valid rows of (N, C); zero without a valid row."""
    if valid is None:
        return (1.0 - pearson(student, teacher, dim=0)).mean()
    loss: Tensor = (1.0 - pearson(student, teacher, 0, valid[:, None])).mean() * valid.any()
    return loss


def pearson(a: Tensor, b: Tensor, dim: int, valid: Tensor | None = None, eps: float = 1e-8) -> Tensor:
    """Pearson's correlation along `dim`, over the valid elements, with eps added to the product of the norms."""
    a, b = centred(a, dim, valid), centred(b, dim, valid)
    norms = torch.linalg.vector_norm(a, dim=dim) * torch.linalg.vector_norm(b, dim=dim)
    rho: Tensor = (a * b).sum(dim) / (norms + eps)
    return rho


def centred(x: Tensor, dim: int, valid: Tensor | None) -> Tensor:
    """x less its mean over the valid elements along `dim`; zero where not valid."""
    if valid is None:
        return x - x.mean(dim, keepdim=True)
    kept = x.where(valid, 0)
    return (x - kept.sum(dim, keepdim=True) / valid.sum(dim, keepdim=True).clamp(min=1)).where(valid, 0)


def rows(x: Tensor) -> Tensor:
    """(B, C, *S) to (N, C): every voxel a sample."""
    return x.movedim(1, -1).reshape(-1, x.shape[1])


class DISTLoss(nn.Module):
    """`dist_loss` with stored options. Usual: CE + 2 of this at T = 1 (ImageNet); beta = gamma = 2, T = 4 (CIFAR-100).

    Warns where `beta` has no effect (two classes), and raises InputError if then nothing is left.
    """

    def __init__(self, classes: int, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0):
        super().__init__()
        require_positive(temperature=temperature)
        if classes == 2 and not gamma:
            raise InputError("DIST with 2 classes and gamma = 0 teaches nothing; set gamma above 0")
        if classes == 2 and beta:
            warnings.warn(
                f"DIST with 2 classes: beta = {beta} has no effect (the correlation of two numbers is -1 or 1); "
                "only the term between samples teaches",
                stacklevel=2,
            )
        self.classes, self.beta, self.gamma, self.temperature = classes, beta, gamma, temperature

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        require_classes(student, self.classes)
        return dist_loss(student, teacher, self.beta, self.gamma, self.temperature, valid)
