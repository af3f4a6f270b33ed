"""Banks of object crops, a few a class, on the training device (card 3.3): what relation-guided mixing draws from.

A crop is stored at one size, so that a bank is one tensor: pushing and pasting are a gather each, with no loop over
boxes and no wait for the device. The size it had is kept beside it.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.ops import box_iou

from medkd.data.targets import Target
from medkd.engine.tensors import need


class CropBank(nn.Module):
    """The last `capacity` crops of each class: (K * capacity + 1, C, *side) float16; the last row takes the
    dropped ones and stays zero.

    classes, capacity, channels; sides: stored size of a crop along the axes of the image, in pixels.
    """

    crops: Tensor
    sizes: Tensor
    pushed: Tensor
    replicated = ("crops", "sizes")  # what is added is every rank's

    def __init__(self, classes: int, channels: int, sides: Sequence[int], capacity: int = 50):
        super().__init__()
        self.classes, self.capacity, self.sides = classes, capacity, tuple(sides)
        rows = classes * capacity + 1
        self.register_buffer("crops", torch.zeros(rows, channels, *sides, dtype=torch.float16))
        self.register_buffer("sizes", torch.zeros(rows, len(self.sides)))
        self.register_buffer("pushed", torch.zeros(classes, dtype=torch.int64))

    def push(self, images: Tensor, targets: Sequence[Target]) -> None:
        """Add the content of every box of (B, C, *S) images; boxes without area are skipped. Images may be of another
        device or type."""
        self.add(*self.cut(images, targets))

    @torch.no_grad()
    def cut(self, images: Tensor, targets: Sequence[Target]) -> tuple[Tensor, Tensor, Tensor]:
        """The content of every box at the stored size (N, C, *side), the size it has (N, D) and its class (N,)."""
        boxes = torch.cat([t.boxes for t in targets]).to(self.sizes)
        labels = torch.cat([t.labels for t in targets]).to(self.pushed)
        owner = torch.repeat_interleave(torch.arange(len(targets)), torch.tensor([len(t) for t in targets]))
        low, high = corners(boxes)
        grid = torch.stack(torch.meshgrid(*[(torch.arange(s) + 0.5) / s for s in self.sides], indexing="ij"), -1)
        grid = grid.to(low)
        points = _at(low, grid.ndim - 1) + grid * _at(high - low, grid.ndim - 1)
        taken = sample(images.to(self.sizes), owner.to(labels.device), points)
        return taken.to(self.crops.dtype), high - low, labels

    @torch.no_grad()
    def add(self, crops: Tensor, sizes: Tensor, labels: Tensor) -> None:
        """Add what `cut` gave; the last crops of a class push out its first ones, those without area are left out."""
        solid = (sizes > 0).all(1)
        chosen = F.one_hot(labels, self.classes) * solid[:, None]
        order = chosen.cumsum(0).gather(1, labels[:, None])[:, 0] - 1  # its number among this push's of the class
        kept = solid & (order >= chosen.sum(0)[labels] - self.capacity)  # only the last can stay
        slot = labels * self.capacity + (self.pushed[labels] + order) % self.capacity
        slot = torch.where(kept, slot, len(self.crops) - 1)
        self.crops[slot], self.sizes[slot] = crops, sizes
        self.crops[-1], self.sizes[-1] = 0, 0  # which of the dropped was written last is chance
        self.pushed += chosen.sum(0)

    def held(self) -> Tensor:
        """(K,) number of crops of each class."""
        return self.pushed.clamp(max=self.capacity)

    def pick(self, labels: Tensor, uniform: Tensor) -> Tensor:
        """(N,) rows of one crop for each label (N,), by uniform numbers (N,) in [0, 1); arbitrary for empty classes."""
        number = (uniform * self.held()[labels]).long()
        return labels * self.capacity + number.clamp(max=self.capacity - 1)


def corners(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Lower and upper corners (N, D) of boxes in the order of the image's axes: 2-D boxes name the last axis first."""
    low, high = boxes.chunk(2, 1)
    return (low.flip(1), high.flip(1)) if boxes.shape[1] == 4 else (low, high)


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """(N, M) intersection over union of boxes with any number of axes."""
    if a.shape[1] == 4:
        return box_iou(a, b)
    (a0, a1), (b0, b1) = corners(a), corners(b)
    shared = (torch.minimum(a1[:, None], b1) - torch.maximum(a0[:, None], b0)).clamp(min=0).prod(-1)
    return shared / ((a1 - a0).prod(1)[:, None] + (b1 - b0).prod(1) - shared).clamp(min=1e-6)


def sample(images: Tensor, which: Tensor, points: Tensor) -> Tensor:
    """Linear interpolation of images (B, C, *S) at points (N, *P, D), continuous coordinates in the order of the axes,
    in image which (N,): (N, C, *P). Outside, the nearest pixel."""
    size = images.shape[2:]
    need("points", points, [(*points.shape[:-1], len(size))])
    position = points - 0.5  # pixel i covers [i, i + 1)
    lower = position.floor()
    share = position - lower
    rows = which.view(-1, *[1] * (points.ndim - 2))
    total = None
    for corner in itertools.product((0, 1), repeat=len(size)):
        index, weight = [], torch.ones_like(share[..., 0])
        for axis, up in enumerate(corner):
            index.append((lower[..., axis] + up).long().clamp(0, size[axis] - 1))
            weight = weight * (share[..., axis] if up else 1 - share[..., axis])
        value = images.movedim(1, -1)[(rows, *index)] * weight[..., None]
        total = value if total is None else total + value
    assert total is not None
    return total.movedim(-1, 1)


def _at(values: Tensor, axes: int) -> Tensor:
    """(N, D) to (N, 1, ..., 1, D) with `axes` ones between."""
    return values.view(len(values), *[1] * axes, values.shape[1])
