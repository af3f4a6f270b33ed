"""What a detector is trained on and what it answers, of one image: plain tensors, the same in every room.

Boxes are continuous coordinates, voxel i covers [i, i + 1). In 2-D (x0, y0, x1, y1): pixels, x to the right (the last
axis of the tensor), y down. In 3-D (x0, y0, z0, x1, y1, z1): along the first, second and third spatial axis of the
tensor (MONAI's order).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Target:
    """The boxes of ONE view of ONE image; immutable: another view is another Target.

    boxes: (N, 2 * D) float32. labels: (N,) int64, 0 .. K - 1, no background. soft: (N, K + 1) soft labels, the last
    column is the background, or None. weight: (N,) multiplies the classification loss of what is assigned to the box.
    regress: whether these boxes train the box regression (trust in their place). source: truth, static, teacher or
    expert.
    """

    boxes: Tensor
    labels: Tensor
    soft: Tensor | None = None
    weight: Tensor | None = None
    regress: bool = True
    source: str = "truth"

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str) -> Target:
        """The same target on a device."""
        soft = None if self.soft is None else self.soft.to(device)
        weight = None if self.weight is None else self.weight.to(device)
        return replace(self, boxes=self.boxes.to(device), labels=self.labels.to(device), soft=soft, weight=weight)


@dataclass(frozen=True)
class Detections:
    """What was found in one image: boxes (N, 2 * D), labels (N,), scores (N,), probabilities (N, K + 1) or None."""

    boxes: Tensor
    labels: Tensor
    scores: Tensor
    probabilities: Tensor | None = None

    def __len__(self) -> int:
        return len(self.boxes)

    def to(self, device: torch.device | str) -> Detections:
        """The same detections on a device."""
        probabilities = None if self.probabilities is None else self.probabilities.to(device)
        return Detections(self.boxes.to(device), self.labels.to(device), self.scores.to(device), probabilities)
