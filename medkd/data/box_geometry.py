"""Boxes under the transforms of views: matrices in homogeneous continuous coordinates, voxel i covering [i, i + 1)."""

from __future__ import annotations

import torch
from torch import Tensor


def map_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """Boxes (N, 2 * D) under a matrix (D + 1, D + 1): low corner first again, whatever was flipped.

    Exact for scales, shifts, flips and turns by 90 degrees, which are all that `views` draws. Coordinates in the order
    of the boxes: x, y in 2-D; the axes of the tensor in 3-D. Computed in float64, given in the type of the boxes.

    >>> flip = torch.tensor([[-1.0, 0, 100], [0, 1, 0], [0, 0, 1]])  # of an image 100 wide
    >>> map_boxes(torch.tensor([[10.0, 5, 30, 8]]), flip).tolist()
    [[70.0, 5.0, 90.0, 8.0]]
    """
    dims = matrix.shape[-1] - 1
    linear, offset = matrix[:dims, :dims].double().to(boxes.device), matrix[:dims, dims].double().to(boxes.device)
    corners = boxes.double().reshape(-1, 2, dims)
    centre, half = corners.mean(1), (corners[:, 1] - corners[:, 0]) / 2
    middle, extent = centre @ linear.T + offset, half @ linear.abs().T
    return torch.cat([middle - extent, middle + extent], 1).to(boxes.dtype)


def unmap_boxes(boxes: Tensor, matrix: Tensor) -> Tensor:
    """From the coordinates of a view back to those of the original image."""
    return map_boxes(boxes, torch.linalg.inv(matrix.double()))


def clip_boxes(boxes: Tensor, size: tuple[int, ...], min_visible: float = 0.0) -> tuple[Tensor, Tensor]:
    """Boxes cut at the border of an image, and which (N,) bool keep more than `min_visible` of their area, and any.

    size: of the tensor, (H, W) or (X, Y, Z).
    """
    dims = len(size)
    limits = torch.tensor(size[::-1] if dims == 2 else size, dtype=boxes.dtype, device=boxes.device)
    cut = torch.minimum(boxes.clamp(min=0), torch.cat([limits, limits]))
    before = (boxes[:, dims:] - boxes[:, :dims]).prod(1)
    after = (cut[:, dims:] - cut[:, :dims]).clamp(min=0).prod(1)
    return cut, (after > 0) & (after >= min_visible * before)
