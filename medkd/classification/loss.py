"""The supervised loss of classification."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.engine.tensors import at_least_float32


def class_weights(counts: Sequence[int], balance: float) -> Tensor:
    """(K,) weights proportional to frequency ** -balance, of mean 1 over all images; 1 for a class without any.

    >>> class_weights([30, 10], 1.0)
    tensor([0.6667, 2.0000])
    """
    n = torch.tensor(counts, dtype=torch.float64)
    raw = n.clamp_min(1) ** -balance
    scale = n.sum() / (raw * n).sum().clamp_min(1e-12) if n.sum() else torch.ones(())
    return torch.where(n > 0, raw * scale, 1.0).float()


class WeightedCrossEntropy:
    """mean_i w[y_i] * CE_i of logits (B, K) and labels (B,): a mean over images, so that micro-batches add up."""

    def __init__(self, weights: Tensor, label_smoothing: float):
        self.weights, self.label_smoothing = weights, label_smoothing

    def __call__(self, output: Tensor, label: Tensor) -> Tensor:
        each = F.cross_entropy(at_least_float32(output), label, reduction="none", label_smoothing=self.label_smoothing)
        self.weights = self.weights.to(output.device)
        return (self.weights[label] * each).mean()
