"""OFA-KD's loss: a teacher of another architecture family, its target class enhanced by an exponent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from medkd.distill.losses.shared import compared_logits, label_mask, masked_mean, require_positive
from medkd.errors import InputError

Form = Literal["code", "paper"]


def ofa_loss(
    student: Tensor,
    teacher: Tensor,
    labels: Tensor,
    gamma: float = 1.0,
    temperature: float = 1.0,
    form: Form = "code",
    ignore_index: int = -100,
) -> Tensor:
    """- sum_c w_c log softmax(z_s / T)_c, the mean over valid samples and voxels; without a factor T^2.

    With p = softmax(z_t / T), y the label: `code` (the published code) w_c = (p_c + [c = y])^gamma - [c = y]; `paper`
    raises the target class alone, w_y = (1 + p_y)^gamma - 1 and w_c = p_c. With gamma = 1 both are KL + H(p). Smallest
    at p_s = w / sum(w), so a student that equals the teacher is not at rest unless gamma = 1, and the loss never is 0.

    Shape: student, teacher (B, C) or (B, C, *S); labels (B) or (B, *S) int64, or soft labels of the shape of the
    logits (float), of which the largest counts; a scalar.
    Raises ValueError for other shapes; InputError for T or gamma <= 0, one class, or an unknown form.
    Reference: Hao et al., NeurIPS 2023, arXiv 2310.19444.

    >>> import torch  # p = (3/4, 1/4), y = 0, gamma 2: w = ((7/4)^2 - 1, 1/16) = (2.0625, 0.0625), times ln 2
    >>> round(ofa_loss(torch.zeros(1, 2), torch.tensor([[3.0, 1.0]]).log(), torch.tensor([0]), gamma=2.0).item(), 6)
    1.472938
    """
    require_positive(gamma=gamma, temperature=temperature)
    s, t = compared_logits(student, teacher)
    if labels.shape == student.shape and labels.is_floating_point():
        labels = labels.argmax(1)
    labels, valid = label_mask(labels, student, ignore_index)
    weights = ofa_weights((t / temperature).softmax(1), labels, gamma, form)
    return masked_mean(-(weights * (s / temperature).log_softmax(1)).sum(1), valid)


def ofa_weights(probabilities: Tensor, labels: Tensor, gamma: float, form: Form = "code") -> Tensor:
    """The weight of each class (B, C, *S) for teacher probabilities (B, C, *S) and labels (B, *S)."""
    own = torch.zeros_like(probabilities).scatter(1, labels[:, None], 1.0)
    enhanced = (probabilities + own) ** gamma - own
    if form == "code":
        return enhanced
    if form == "paper":
        return torch.where(own.bool(), enhanced, probabilities)
    raise InputError(f"form is {form!r}; it must be 'code' or 'paper'")


class OFALoss(nn.Module):
    """final_weight L(z; last gamma) + exit_weight sum_i L(z_i; gamma_i), beside which cross-entropy is added.

    z are the student's logits, z_i those of its exits: throw-away branches from intermediate features to classes,
    which the caller trains. gamma: one number for all, or one for each exit and a last one for the final logits.
    Published: all weights 1; exit_weight 0.1 on CIFAR-100.
    """

    def __init__(
        self,
        gamma: float | Sequence[float] = 1.0,
        temperature: float = 1.0,
        form: Form = "code",
        final_weight: float = 1.0,
        exit_weight: float = 1.0,
        ignore_index: int = -100,
    ):
        super().__init__()
        self.gammas = (gamma,) if isinstance(gamma, (int, float)) else tuple(gamma)
        self.one_gamma = isinstance(gamma, (int, float))
        require_positive(temperature=temperature, **{f"gamma[{i}]": g for i, g in enumerate(self.gammas)})
        if form not in ("code", "paper"):
            raise InputError(f"form is {form!r}; it must be 'code' or 'paper'")
        self.temperature, self.form, self.ignore_index = temperature, form, ignore_index
        self.final_weight, self.exit_weight = final_weight, exit_weight

    def gammas_for(self, exits: int) -> tuple[float, ...]:
        """Of each exit and of the final logits. Raises InputError for another number of gammas."""
        gammas = self.gammas * (exits + 1) if self.one_gamma else self.gammas
        if len(gammas) != exits + 1:
            raise InputError(f"{len(gammas)} gammas for {exits} exits; needed: one each and one for the last, or 1")
        return gammas

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor, exits: Sequence[Tensor] = ()) -> Tensor:
        """student (B, C, *S) final logits, exits: logits of the same shape."""
        gammas = self.gammas_for(len(exits))
        weights = [self.exit_weight] * len(exits) + [self.final_weight]
        terms = [
            w * ofa_loss(z, teacher, labels, g, self.temperature, self.form, self.ignore_index)
            for w, z, g in zip(weights, [*exits, student], gammas)
        ]
        return torch.stack(terms).sum()
