"""Hinton's distillation: the teacher's softened class probabilities, per sample, per voxel, or per sigmoid label."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.shared import compared, compared_logits, masked_mean, require_positive, softened_kl
from medkd.errors import InputError


def hinton_kd_loss(
    student: Tensor, teacher: Tensor, temperature: float = 4.0, valid: Tensor | None = None, standardise: bool = False
) -> Tensor:
    """T^2 KL( softmax(z_t / T) || softmax(z_s / T) ), summed over classes, the mean over samples and voxels.

    T^2 keeps the size of the gradient when T changes; for large T the loss is ||z_s - z_t||^2 / (2 C) of the centred
    logits. standardise: compare only the shape of each logit vector, (z - mean) / standard deviation over classes.

    Shape: student, teacher (B, C) or (B, C, *S); valid (B) or (B, *S) bool; a scalar.
    Raises ValueError for other shapes; InputError for T <= 0, for one class, and for standardised logits of two
    classes: these are always -0.7071 and 0.7071, whatever the teacher's confidence.
    Reference: Hinton, Vinyals, Dean 2015, arXiv 1503.02531; standardised logits: Sun et al., CVPR 2024.

    >>> import torch  # teacher probabilities 3/4 and 1/4, student 1/2 and 1/2: KL = 3/4 ln 3/2 + 1/4 ln 1/2
    >>> round(hinton_kd_loss(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log(), temperature=1.0).item(), 6)
    0.130812
    """
    require_positive(temperature=temperature)
    s, t = compared_logits(student, teacher)
    if standardise:
        s, t = standardised(s), standardised(t)
    return temperature**2 * masked_mean(softened_kl(s, t, temperature), valid)


def bernoulli_kd_loss(
    student: Tensor, teacher: Tensor, temperature: float = 1.0, valid: Tensor | None = None
) -> Tensor:
    """T^2 KL( Bernoulli(sigmoid(z_t / T)) || Bernoulli(sigmoid(z_s / T)) ), the mean over all labels and samples.

    For multi-label heads, where a softmax loss would be wrong.
    Shape: student, teacher and valid (bool) all (B, L) or (B, L, *S); a scalar.
    Raises ValueError for other shapes, InputError for T <= 0.

    >>> import torch  # teacher 3/4, student 1/2
    >>> round(bernoulli_kd_loss(torch.zeros(1, 1), torch.tensor([[3.0]]).log()).item(), 6)
    0.130812
    """
    require_positive(temperature=temperature)
    s, t = compared(student, teacher)
    s, t = s / temperature, t / temperature
    on = t.sigmoid() * (F.logsigmoid(t) - F.logsigmoid(s))
    off = (-t).sigmoid() * (F.logsigmoid(-t) - F.logsigmoid(-s))
    return temperature**2 * masked_mean(on + off, valid)


def require_confidence(classes: int) -> None:
    """Raise InputError unless standardised logits of so many classes still tell how sure a network is."""
    if classes < 3:
        raise InputError(f"standardised logits of {classes} classes carry no confidence; needed: 3 or more")


def standardised(logits: Tensor) -> Tensor:
    """(z - mean) / standard deviation over classes (dim 1; n - 1 in the variance). InputError for two classes."""
    require_confidence(logits.shape[1])
    centred = logits - logits.mean(1, keepdim=True)
    spread = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / (logits.shape[1] - 1) ** 0.5
    shape: Tensor = centred / (spread + 1e-7)
    return shape


class HintonKDLoss(nn.Module):
    """`hinton_kd_loss` with stored options. Usual: 0.1 CE + 0.9 of this at T = 4 (CIFAR-100); T = 1 on ImageNet."""

    def __init__(self, temperature: float = 4.0, standardise: bool = False):
        super().__init__()
        require_positive(temperature=temperature)
        self.temperature, self.standardise = temperature, standardise

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        return hinton_kd_loss(student, teacher, self.temperature, valid, self.standardise)


class BernoulliKDLoss(nn.Module):
    """`bernoulli_kd_loss` with stored options."""

    def __init__(self, temperature: float = 1.0):
        super().__init__()
        require_positive(temperature=temperature)
        self.temperature = temperature

    def forward(self, student: Tensor, teacher: Tensor, valid: Tensor | None = None) -> Tensor:
        return bernoulli_kd_loss(student, teacher, self.temperature, valid)
