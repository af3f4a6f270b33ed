"""Contrastive Representation Distillation (CRD): a sample's student embedding finds its teacher embedding in a bank."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.projectors import applied
from medkd.distill.losses.shared import masked_mean, no_autocast, require_positive
from medkd.engine.tensors import at_least_float32, need
from medkd.errors import InputError


def crd_nce_loss(log_positive: Tensor, log_negative: Tensor, ratio: float) -> Tensor:
    """- log( P+ / (P+ + r) ) - sum over negatives of log( r / (P- + r) ), the mean over samples.

    Shape: log P+ (B), log P- (B, K); r = K / N, the number of negatives over that of samples; a scalar.
    Raises ValueError for other shapes, InputError for r <= 0.
    Reference: Tian, Krishnan, Isola, ICLR 2020, arXiv 1910.10699.

    >>> p, n = torch.tensor([0.5]).log(), torch.tensor([[0.1, 0.2]]).log()  # ln 2 + ln 6/5 + ln 7/5
    >>> round(crd_nce_loss(p, n, 0.5).item(), 6)
    1.211941
    """
    require_positive(ratio=ratio)
    if log_negative.ndim != 2:
        raise ValueError(f"log_negative has shape {tuple(log_negative.shape)}; needed: (B, K)")
    need("log_positive", log_positive, [log_negative.shape[:1]])
    positive, negative = at_least_float32(log_positive), at_least_float32(log_negative)
    log_ratio = math.log(ratio)
    return masked_mean(F.softplus(log_ratio - positive) + F.softplus(negative - log_ratio).sum(1))


class CRDLoss(nn.Module):
    """`crd_nce_loss` of the student against the teacher's bank, plus of the teacher against the student's.

    Both sides get a trained linear embedding of length 1. A bank holds one embedding of each of the N training samples.
    P = exp(<v, m> / temperature) / Z, Z fixed from the first training batch (mean * N). Negatives are samples of other
    classes, at most as many as every class has. Banks and Z are buffers: part of the checkpoint, never shipped.

    labels: (N) int64, the class of every training sample, by the index that `forward` gets. Usual weight 0.8.
    A step: `negatives`, `forward`, the optimiser, `update`. Over several processes `update` needs every process's
    features, and the banks must not be broadcast or averaged: the others' updates would be lost.
    Raises InputError for options out of range, or if all samples are of one class.
    """

    student_bank: Tensor
    teacher_bank: Tensor
    labels: Tensor
    log_z: Tensor
    replicated = ("student_bank", "teacher_bank")

    def __init__(
        self,
        student_dim: int,
        teacher_dim: int,
        labels: Tensor,
        dim: int = 128,
        negatives: int = 16384,
        temperature: float = 0.07,
        momentum: float = 0.5,
    ):
        super().__init__()
        require_positive(temperature=temperature, negatives=negatives)
        if not 0 <= momentum < 1:
            raise InputError(f"momentum is {momentum}; it must be at least 0 and below 1")
        others = len(labels) - int(labels.bincount().max())
        if others < 1:
            raise InputError(f"all {len(labels)} samples are of one class: CRD has no negatives")
        self.count = min(negatives, others)
        self.temperature, self.momentum = temperature, momentum
        self.student_embedding = nn.Linear(student_dim, dim)
        self.teacher_embedding = nn.Linear(teacher_dim, dim)
        self.register_buffer("labels", labels.clone())
        for side in ("student", "teacher"):
            self.register_buffer(f"{side}_bank", F.normalize(torch.randn(len(labels), dim), dim=1))
        self.register_buffer("log_z", torch.full((2,), torch.nan))  # NaN: no batch seen yet

    def negatives(self, index: Tensor, uniform: Tensor) -> Tensor:
        """(B, K) indices of samples of other classes, none twice, by random numbers `uniform` (B, N) in [0, 1)."""
        need("uniform", uniform, [(len(index), len(self.labels))])
        same = self.labels[index][:, None] == self.labels
        return uniform.to(same.device, non_blocking=True).masked_fill(same, -1.0).topk(self.count, dim=1).indices

    def forward(self, student: Tensor, teacher: Tensor, index: Tensor, negatives: Tensor) -> Tensor:
        """student (B, D_s), teacher (B, D_t) pooled features; index (B), negatives (B, K) int64. Sets Z once."""
        s, t = self.embeddings(student, teacher)
        need("index", index, [s.shape[:1]])
        need("negatives", negatives, [(len(s), self.count)])
        rows = torch.cat([index[:, None], negatives], 1)
        return self.contrast(s, self.teacher_bank[rows], 0) + self.contrast(t, self.student_bank[rows], 1)

    def contrast(self, anchor: Tensor, stored: Tensor, side: int) -> Tensor:
        """The loss of anchors (B, D) against their own (first) and other stored embeddings (B, 1 + K, D)."""
        with no_autocast(anchor):
            scores = (stored @ anchor[:, :, None])[..., 0] / self.temperature
        samples = len(self.labels)
        first = scores.detach().flatten().logsumexp(0) - math.log(scores.numel() / samples)
        log_z = self.log_z[side].where(~self.log_z[side].isnan(), first)
        if self.training:
            with torch.no_grad():
                self.log_z[side].copy_(log_z)
        log_p = scores - log_z
        return crd_nce_loss(log_p[:, 0], log_p[:, 1:], self.count / samples)

    @torch.no_grad()
    def update(self, student: Tensor, teacher: Tensor, index: Tensor) -> None:
        """Move the banks' rows: m old + (1 - m) new, of length 1. After a real optimiser step only."""
        for bank, new in zip((self.student_bank, self.teacher_bank), self.embeddings(student, teacher)):
            bank[index] = F.normalize(self.momentum * bank[index] + (1 - self.momentum) * new.to(bank.dtype), dim=1)

    def embeddings(self, student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
        """(B, dim) of length 1, of both sides. No gradient goes to the teacher's features."""
        for name, x in (("student", student), ("teacher", teacher)):
            if x.ndim != 2:
                raise ValueError(f"{name} has shape {tuple(x.shape)}; needed: (B, D): pool the features first")
        need("teacher", teacher, [(len(student), teacher.shape[1])])
        sides = ((self.student_embedding, student), (self.teacher_embedding, teacher.detach()))
        s, t = (F.normalize(at_least_float32(applied(layer, x)), dim=1) for layer, x in sides)
        return s, t
