"""The largest connected component of every class of every image of a batch (card bcp.md 3.7).

On the CPU scipy labels the whole batch at once; on a GPU labels propagate without leaving the device. Both give the
same: of two components of one size the one met first in raster order stays.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor
from torch.nn import functional as F

NEIGHBOURS = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}  # connectivity -> how many axes may differ by one
SYNC_EVERY = 8  # propagation rounds between two looks at whether anything still changes


def largest_component(labels: Tensor, num_classes: int, connectivity: int | None = None) -> Tensor:
    """Keep the largest component of each foreground class, set the rest to 0.

    labels: (B, *S) integer, 2-D or 3-D. connectivity: 4 or 8 in 2-D, 6, 18 or 26 in 3-D; default all neighbours.
    Returns the same shape, type and device. Classes and images do not interact; an absent class stays absent.
    """
    dims = labels.ndim - 1
    allowed = NEIGHBOURS.get(dims, {})
    connectivity = connectivity or max(allowed, default=0)
    if connectivity not in allowed:
        raise ValueError(f"connectivity is {connectivity} for {dims}-D images; allowed: {sorted(allowed)}")
    axes = allowed[connectivity]
    keep = torch.zeros_like(labels, dtype=torch.bool)
    for c in range(1, num_classes):
        mask = labels == c
        keep |= _largest_on_device(mask, axes) if labels.is_cuda else _largest_on_cpu(mask, axes)
    return torch.where(keep, labels, 0)


def _largest_on_cpu(mask: Tensor, axes: int) -> Tensor:
    array = mask.numpy()
    structure = np.zeros((3,) * array.ndim, bool)
    structure[1] = ndimage.generate_binary_structure(array.ndim - 1, axes)  # nothing joins two images
    components, count = ndimage.label(array, structure)
    if count == 0:
        return mask
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    # Components are numbered in raster order: those of one image follow each other, the first of equals first.
    ends = np.maximum.accumulate(components.reshape(len(array), -1).max(1))
    starts = np.concatenate([[0], ends[:-1]])
    best = [start + 1 + sizes[start:end].argmax() for start, end in zip(starts, ends) if end > start]
    chosen = np.zeros(count + 1, bool)
    chosen[best] = True
    return torch.from_numpy(chosen[components])


def _largest_on_device(mask: Tensor, axes: int) -> Tensor:
    """Every voxel takes the largest number of its component: numbers fall in raster order, so the first voxel's wins.

    A round is one look at the neighbours and one jump to the number of the voxel whose number one holds; jumps make
    long thin components as quick as round ones. The host looks every `SYNC_EVERY` rounds whether all is settled.
    """
    batch, dims = len(mask), mask.ndim - 1
    voxels = mask[0].numel()
    number = torch.arange(voxels, 0, -1, device=mask.device).reshape(1, *mask.shape[1:]) * mask
    while True:
        before = number
        for _ in range(SYNC_EVERY):
            number = _neighbours_maximum(number, axes, dims) * mask
            flat = number.flatten(1)
            # number k belongs to the voxel at raster position voxels - k
            number = flat.gather(1, (voxels - flat).clamp(max=voxels - 1)).reshape(mask.shape) * mask
        if torch.equal(before, number):
            break
    sizes = torch.zeros(batch, voxels + 1, dtype=torch.int64, device=mask.device)
    sizes.scatter_add_(1, number.flatten(1), mask.flatten(1).long())
    sizes[:, 0] = 0
    # the highest number among the largest: the component met first
    best = voxels - sizes.flip(1).argmax(1)
    return mask & (number == best.reshape(-1, *[1] * dims))


def _neighbours_maximum(number: Tensor, axes: int, dims: int) -> Tensor:
    """The largest number among a voxel and its neighbours, of which at most `axes` coordinates differ by one."""
    offsets = [
        o for o in torch.cartesian_prod(*[torch.arange(3)] * dims).tolist() if 0 < sum(v != 1 for v in o) <= axes
    ]
    padded = F.pad(number, (1, 1) * dims)
    result = number
    for offset in offsets:
        source = tuple(slice(v, v + n) for v, n in zip(offset, number.shape[1:]))
        result = torch.maximum(result, padded[(slice(None), *source)])
    return result
