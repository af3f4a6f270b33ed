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
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}, with the background; needed: at least 2")
    largest = _largest_on_cpu if labels.device.type == "cpu" else _largest_on_device
    return torch.where(largest(labels, num_classes, allowed[connectivity]), labels, 0)


def _largest_on_cpu(labels: Tensor, num_classes: int, axes: int) -> Tensor:
    """Which voxels stay, (B, *S) bool: every image and class is labelled in one call of scipy."""
    array = labels.numpy()
    pairs = len(array) * (num_classes - 1)  # of an image and a class
    masks = np.stack([array == c for c in range(1, num_classes)], 1).reshape(pairs, *array.shape[1:])
    structure = np.zeros((3,) * array.ndim, bool)
    structure[1] = ndimage.generate_binary_structure(array.ndim - 1, axes)  # nothing joins two masks
    components, count = ndimage.label(masks, structure)
    # Components are numbered in raster order: those of one pair follow each other, the first of equals first.
    ends = np.maximum.accumulate(components.reshape(pairs, -1).max(1))
    # Classes do not overlap: one map holds the numbers of them all.
    components = components.reshape(len(array), num_classes - 1, *array.shape[1:]).max(1)
    sizes = np.bincount(components.ravel(), minlength=count + 1)[1:]
    owner = np.repeat(np.arange(pairs), np.diff(ends, prepend=0))
    order = np.lexsort((-sizes, owner))  # stable: by pair, then by falling size, then as numbered
    chosen = np.zeros(count + 1, bool)
    chosen[1 + order[np.unique(owner, return_index=True)[1]]] = True
    return torch.from_numpy(chosen.take(components))


def _largest_on_device(labels: Tensor, num_classes: int, axes: int) -> Tensor:
    """The same in torch alone: every voxel takes the largest number of its component.

    Numbers fall in raster order, so a component gets the number of its first voxel. In a round a voxel looks at its
    neighbours, tells what it saw to the voxel whose number it holds, and takes over what that voxel holds (hooking and
    pointer jumping): whole regions merge at once, and a long snake needs about as many rounds as a disc. The host
    looks once in `SYNC_EVERY` rounds whether all is settled.
    """
    classes = torch.arange(1, num_classes, device=labels.device).reshape(-1, *[1] * (labels.ndim - 1))
    masks = (labels[:, None] == classes).flatten(0, 1)  # (B * foreground classes, *S)
    shape, voxels = masks.shape, labels[0].numel()
    inside = masks.flatten(1).long()
    position = torch.arange(voxels, device=labels.device).expand_as(inside)
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
    row = torch.arange(len(masks), device=labels.device)[:, None] * (voxels + 1)
    sizes = torch.zeros(len(masks) * (voxels + 1), dtype=torch.int64, device=labels.device)
    sizes = sizes.scatter_add(0, (number + row).flatten(), inside.flatten()).reshape(len(masks), -1)
    best = voxels - sizes.flip(1).argmax(1)  # the highest number among the largest: the component met first
    stays = inside.bool() & (number == best[:, None])
    return stays.reshape(len(labels), num_classes - 1, *labels.shape[1:]).any(1)


def _neighbours_maximum(number: Tensor, axes: int) -> Tensor:
    """The largest number (N, *S) of a voxel and its neighbours, which differ in at most `axes` coordinates by one."""
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
