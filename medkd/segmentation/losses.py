"""Dice and cross-entropy over regions, the supervised and the pseudo-label losses of every method of this room.

All sums run in float32 whatever the autocast (float64 stays
float64). Two published forms of the soft Dice of class c in a region m, and nnU-Net's:

    batch_squared   (2 sum P T m + s) / (sum P^2 m + sum T^2 m + s)   sums over batch and space   s = 1e-10 in BCP, 2-D
    sample_linear   (2 sum P T m + s) / (sum (P + T) m + s)           sums over space, mean over samples   s = 1e-5, 3-D
    batch_linear    as sample_linear, sums over batch and space
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.engine.tensors import at_least_float32, need

DiceForm = Literal["batch_squared", "sample_linear", "batch_linear"]
SMOOTH: dict[str, float] = {"batch_squared": 1e-10, "sample_linear": 1e-5, "batch_linear": 1e-5}


def soft_dice_loss(
    probabilities: Tensor,
    target: Tensor,
    region: Tensor | None = None,
    form: DiceForm = "batch_squared",
    smooth: float | None = None,
    background: bool = True,
) -> Tensor:
    """1 - soft Dice, the mean over classes; a scalar.

    Shape: probabilities (B, K, *S), target (B, K, *S) one-hot, region (B or 1, *S) weights or None for everywhere.
    An empty region gives exactly zero, attached to the graph. Raises ValueError for other shapes.
    """
    samples, spatial = probabilities.shape[0], probabilities.shape[2:]
    need("target", target, [probabilities.shape])
    if region is not None:
        need("region", region, [(samples, *spatial), (1, *spatial)])
    first = 0 if background else 1
    p, t = at_least_float32(probabilities[:, first:].flatten(2)), target[:, first:].flatten(2)
    t = t.to(p.dtype)
    m = p.new_ones(1, 1, 1) if region is None else region.flatten(1)[:, None].to(p.dtype)
    over = (2,) if form == "sample_linear" else (0, 2)
    smooth = SMOOTH[form] if smooth is None else smooth
    overlap = (p * t * m).sum(over)
    if form == "batch_squared":
        size = (p * p * m).sum(over) + (t * t * m).sum(over)
    else:
        size = ((p + t) * m).sum(over)
    return (1.0 - (2.0 * overlap + smooth) / (size + smooth)).mean()


def region_cross_entropy(pixel_loss: Tensor, region: Tensor) -> Tensor:
    """Mean of a per-pixel loss (B, *S) over a region (B or 1, *S); zero, attached to the graph, where it is empty."""
    need("region", region, [pixel_loss.shape, (1, *pixel_loss.shape[1:])])
    m = region.to(pixel_loss.dtype).expand_as(pixel_loss)
    return (pixel_loss * m).sum() / (m.sum() + 1e-16)


def region_dice_ce(
    logits: Tensor,
    label: Tensor,
    host: Tensor,
    host_weight: float,
    patch_weight: float,
    form: DiceForm = "batch_squared",
) -> Tensor:
    """BCP's loss of one composite (card 3.6): (Dice + cross-entropy) / 2, each summed over host and patch with weights.

    Shape: logits (B, K, *S); label (B, *S), the composite of both labels; host (*S), (1, *S) or (B, *S) bool, True
    where the host image survives and False inside the pasted box. Returns a float32 scalar. Raises ValueError for
    other shapes.
    """
    need("label", label, [(logits.shape[0], *logits.shape[2:])])
    logits = at_least_float32(logits)
    host = host if host.ndim == label.ndim else host[None]
    probabilities = logits.softmax(1)
    target = one_hot(label, logits.shape[1])
    pixel_loss = F.cross_entropy(logits, label, reduction="none")
    total = logits.new_zeros(())
    for weight, region in ((host_weight, host), (patch_weight, ~host)):
        dice = soft_dice_loss(probabilities, target, region, form)
        total = total + weight * (dice + region_cross_entropy(pixel_loss, region)) / 2
    return total


def full_resolution(output: Tensor, image: Tensor) -> Tensor:
    """The first output of a network with deep supervision, (B, n, K, *S) to (B, K, *S); any other output as it is."""
    return output[:, 0] if output.ndim > image.ndim else output


def one_hot(label: Tensor, classes: int) -> Tensor:
    """(B, *S) int64 to (B, K, *S) float32."""
    return F.one_hot(label, classes).movedim(-1, 1).float()


@dataclass(frozen=True)
class DiceCE:
    """The supervised loss: dice_weight * Dice + ce_weight * cross-entropy over whole images.

    With several outputs at decreasing resolution (deep supervision: (B, n, K, *S), or a list) their losses are
    weighted by `deep_supervision_weights`.
    """

    form: DiceForm = "batch_squared"
    smooth: float | None = 1e-5
    background: bool = True
    dice_weight: float = 0.5
    ce_weight: float = 0.5

    def __call__(self, logits: Tensor, label: Tensor) -> Tensor:
        if logits.ndim == label.ndim + 2:
            weights = deep_supervision_weights(logits.shape[1])
            terms = [w * self(logits[:, i], label) for i, w in enumerate(weights) if w > 0]
            return torch.stack(terms).sum()
        need("label", label, [(logits.shape[0], *logits.shape[2:])])
        logits = at_least_float32(logits)
        dice = soft_dice_loss(
            logits.softmax(1), one_hot(label, logits.shape[1]), None, self.form, self.smooth, self.background
        )
        return self.dice_weight * dice + self.ce_weight * F.cross_entropy(logits, label)


def deep_supervision_weights(outputs: int) -> list[float]:
    """1, 1/2, 1/4, ... with the last set to 0, normalised to sum 1 (nnU-Net); [1] for a single output.

    >>> [round(w, 6) for w in deep_supervision_weights(5)]
    [0.533333, 0.266667, 0.133333, 0.066667, 0.0]
    """
    if outputs == 1:
        return [1.0]
    raw = [0.5**i for i in range(outputs - 1)] + [0.0]
    return [w / sum(raw) for w in raw]
