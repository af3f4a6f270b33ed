"""The largest connected component of every class of every image of a batch (card bcp.md 3.7).

On the CPU scipy labels the whole batch at once; on a GPU numbers propagate without leaving the device. Both give the
same: of two components of one size the one met first in raster order stays.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

NEIGHBOURS = {2: {4: 1, 8: 2}, 3: {6: 1, 18: 2, 26: 3}}  # connectivity -> how many axes may differ by one
SYNC_EVERY = 4  # propagation rounds between two looks at whether anything still changes


def largest_component(labels: Tensor, num_classes: int, connectivity: int | None = None) -> Tensor:
    """Keep the largest component of each foreground class, set the rest to 0.

    labels: (B, *S) integer, 2-D or 3-D. connectivity: 4 or 8 in 2-D, 6, 18 or 26 in 3-D; default all neighbours.
    Returns the same shape, type and device. Classes and images do not interact; an absent class stays absent.
    """
    dims = labels.ndim - 1
    allowed = NEIGHBOURS.get(dims, {})
    connectivity = max(allowed, default=0) if connectivity is None else connectivity
    if connectivity not in allowed:
        raise ValueError(f"connectivity is {connectivity} for {dims}-D images; allowed: {sorted(allowed)}")
    classes = torch.arange(1, num_classes, device=labels.device).reshape(-1, *[1] * dims)
    masks = (labels[:, None] == classes).flatten(0, 1)  # (B * foreground classes, *S)
    largest = _largest_on_cpu if labels.device.type == "cpu" else _largest_on_device
    keep = largest(masks, allowed[connectivity]).reshape(len(labels), num_classes - 1, *labels.shape[1:]).any(1)
    return torch.where(keep, labels, 0)


def _largest_on_cpu(masks: Tensor, axes: int) -> Tensor:
    """The largest component of each mask (N, *S), all masks in one call of scipy's labelling."""
    array = masks.numpy()
    structure = np.zeros((3,) * array.ndim, bool)
    structure[1] = ndimage.generate_binary_structure(array.ndim - 1, axes)  # nothing joins two masks
    components, count = ndimage.label(array, structure)
    if count == 0:
        return masks
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    # Components are numbered in raster order: those of one mask follow each other, the first of equals first.
    ends = np.maximum.accumulate(components.reshape(len(array), -1).max(1))
    owner = np.repeat(np.arange(len(array)), np.diff(ends, prepend=0))
    order = np.lexsort((-sizes, owner))  # stable: by mask, then by falling size, then as numbered
    chosen = np.zeros(count + 1, bool)
    chosen[1 + order[np.unique(owner, return_index=True)[1]]] = True
    return torch.from_numpy(chosen[components])


def _largest_on_device(masks: Tensor, axes: int) -> Tensor:
    """The same in torch alone: every voxel takes the largest number of its component.

    Numbers fall in raster order, so a component gets the number of its first voxel. In a round a voxel looks at its
    neighbours, tells what it saw to the voxel whose number it holds, and takes over what that voxel holds (hooking and
    pointer jumping): whole regions merge at once, and a long snake needs about as many rounds as a disc. The host
    looks once in `SYNC_EVERY` rounds whether all is settled.
    """
    shape, voxels = masks.shape, masks[0].numel()
    inside = masks.flatten(1).long()
    position = torch.arange(voxels, device=masks.device).expand_as(inside)
    number = (voxels - position) * inside  # number k belongs to the voxel at position voxels - k; 0 is outside
    settled = False
    while not settled:
        for _ in range(SYNC_EVERY):
            before = number
            seen = _neighbours_maximum(number.reshape(shape), axes).flatten(1) * inside
            # who saw nothing new writes to itself: no queue of writers at the voxel that all hold
            told = torch.where(seen > number, voxels - number, position)
            number = torch.maximum(number, seen).scatter_reduce(1, told, seen, "amax")
            number = number.gather(1, (voxels - number).clamp(max=voxels - 1)) * inside
        settled = torch.equal(before, number)
    # One flat table of sizes: the form of scatter_add that torch can also do deterministically.
    row = torch.arange(len(masks), device=masks.device)[:, None] * (voxels + 1)
    sizes = torch.zeros(len(masks) * (voxels + 1), dtype=torch.int64, device=masks.device)
    sizes = sizes.scatter_add(0, (number + row).flatten(), inside.flatten()).reshape(len(masks), -1)
    best = voxels - sizes.flip(1).argmax(1)  # the highest number among the largest: the component met first
    return masks & (number == best[:, None]).reshape(shape)


def _neighbours_maximum(number: Tensor, axes: int) -> Tensor:
    """The largest number (N, *S) among a voxel and its neighbours, of which at most `axes` coordinates differ by one."""
    result = number
    for plane in itertools.combinations(range(1, number.ndim), axes):
        near = number
        for axis in plane:  # a box of neighbours is a line along each of its axes in turn
            count = near.shape[axis] - 1
            first, last = near.narrow(axis, 0, count), near.narrow(axis, 1, count)
            wide = near.clone()
            wide.narrow(axis, 0, count).copy_(torch.maximum(first, last))
            end = wide.narrow(axis, 1, count)
            end.copy_(torch.maximum(end, first))
            near = wide
        result = torch.maximum(result, near)
    return result
