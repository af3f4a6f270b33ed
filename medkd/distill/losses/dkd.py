"""Decoupled Knowledge Distillation (DKD): the target class and the other classes weighted apart."""

from __future__ import annotations

import warnings

import torch
from torch import Tensor, nn

from medkd.distill.losses.shared import (
    compared_logits,
    label_mask,
    log_kl,
    masked_mean,
    require_classes,
    require_positive,
)


def dkd_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    alpha: float = 1.0,
    beta: float = 8.0,
    temperature: float = 4.0,
    ignore_index: int = -100,
) -> Tensor:
    """T^2 (alpha TCKD + beta NCKD), the mean over valid samples and voxels.

    With p = softmax(z / T), y the label: TCKD = KL( (p_t,y, 1 - p_t,y) || (p_s,y, 1 - p_s,y) ), and NCKD the KL of the
    softmax over the classes other than y. The plain KL is TCKD + (1 - p_t,y) NCKD. With two classes NCKD is zero.

    Shape: student, teacher (B, C) or (B, C, *S); labels (B) or (B, *S) int64; a scalar.
    Raises ValueError for other shapes; InputError for T <= 0 and for one class.
    Reference: Zhao et al., CVPR 2022, arXiv 2203.08679.

    >>> import torch  # teacher 1/2, 1/4, 1/4, student uniform: TCKD = 1/2 ln 3/2 + 1/2 ln 3/4, and NCKD = 0
    >>> teacher = torch.tensor([[2.0, 1.0, 1.0]]).log()
    >>> round(dkd_loss(torch.zeros(1, 3), teacher, torch.tensor([0]), temperature=1.0).item(), 6)
    0.058892
    """
    require_positive(temperature=temperature)
    s, t = compared_logits(student, teacher)
    labels, valid = label_mask(labels, student, ignore_index)
    target, others = dkd_terms(s, t, labels, temperature)
    return temperature**2 * masked_mean(alpha * target + beta * others, valid)


def dkd_terms(student: Tensor, teacher: Tensor, labels: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """(TCKD, NCKD), each (B, *S), without the factor T^2."""
    own = labels[:, None]
    channel = torch.arange(student.shape[1] - 1, device=labels.device).view(1, -1, *[1] * (labels.ndim - 1))
    rest = channel + (channel >= own)  # the other classes, so that nothing need be masked with a large number

    def parts(logits: Tensor) -> tuple[Tensor, Tensor]:
        z = logits / temperature
        z_own, z_rest = z.gather(1, own), z.gather(1, rest)
        binary = torch.cat([z_own, z_rest.logsumexp(1, keepdim=True)], 1)
        return binary.log_softmax(1), z_rest.log_softmax(1)

    (s_binary, s_rest), (t_binary, t_rest) = parts(student), parts(teacher)
    return log_kl(s_binary, t_binary), log_kl(s_rest, t_rest)


class DKDLoss(nn.Module):
    """`dkd_loss` with stored options. Warns where `beta` has no effect: with two classes.

    Usual: CE + this, ramped up over the first 20 epochs; beta 2 to 8 on CIFAR-100, 0.5 to 2 at T = 1 on ImageNet.
    """

    def __init__(
        self, classes: int, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, ignore_index: int = -100
    ):
        super().__init__()
        require_positive(temperature=temperature)
        if classes == 2 and beta:
            warnings.warn(f"DKD with 2 classes: beta = {beta} has no effect, the loss is alpha * KD", stacklevel=2)
        self.classes, self.alpha, self.beta = classes, alpha, beta
        self.temperature, self.ignore_index = temperature, ignore_index

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
        require_classes(student, self.classes)
        return dkd_loss(student, teacher, labels, self.alpha, self.beta, self.temperature, self.ignore_index)
