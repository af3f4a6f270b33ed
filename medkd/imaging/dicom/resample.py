"""Uneven or leaning slices on a regular grid: linear along the slice normal and, where they are shifted, in plane."""

from __future__ import annotations

import numpy as np

from medkd.imaging.dicom.stack import Stack


def regular_grid(stack: Stack, rows: int, columns: int) -> tuple[tuple[int, int, int], np.ndarray]:
    """Shape (X, Y, Z) and affine (4, 4, voxel to LPS mm) of the grid: axes along row, column and normal, and large
    enough for every slice. Its first plane is the first slice; its step along the normal is the stack's."""
    low, high = _lateral_range(stack)
    shape = (columns + int(high[0] - low[0]), rows + int(high[1] - low[1]), _planes(stack))
    affine = np.eye(4)
    affine[:3, :3] = (stack.directions * stack.spacing[:, None]).T
    affine[:3, 3] = stack.origins[0] + affine[:3, :2] @ low
    return shape, affine


def resample(array: np.ndarray, shift: np.ndarray, spacing: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Slices (X, Y, n) in order, as float32 on the grid of `regular_grid`; its lowest value where no slice reaches.

    shift (n, 3), spacing (3,) and shape: of the stack and of its regular grid.
    """
    low = np.floor(np.round(shift[:, :2] / spacing[:2], 6).min(0)).astype(int)
    out = np.full(shape, array.min(), np.float32)
    heights = shift[:, 2]
    for plane in range(shape[2]):
        height = plane * spacing[2]
        upper = int(np.clip(np.searchsorted(heights, height), 1, len(heights) - 1))
        weight = min(1.0, (height - heights[upper - 1]) / (heights[upper] - heights[upper - 1]))
        total, covered = np.zeros(shape[:2]), np.ones(shape[:2], bool)
        for index, share in ((upper - 1, 1 - weight), (upper, weight)):
            if share > 1e-6:
                values, inside = _shifted(array[:, :, index], shift[index, :2] / spacing[:2] - low, shape[:2])
                total += share * values
                covered &= inside
        out[:, :, plane][covered] = total[covered]
    return out


def _shifted(picture: np.ndarray, by: np.ndarray, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A picture whose first pixel lies at `by` (in pixels, not negative) of a larger one; and which it covers."""
    picture, inside = picture.astype(np.float64), np.ones(picture.shape, bool)
    whole = np.floor(np.round(by, 6)).astype(int)
    for axis in (0, 1):
        part = float(by[axis] - whole[axis])
        if abs(part) > 1e-6:  # pixel i of the result lies between pixels i - 1 and i
            before = np.take(picture, range(-1, picture.shape[axis] - 1), axis)
            picture = part * before + (1 - part) * picture
            first = [slice(None)] * 2
            first[axis] = slice(0, 1)
            inside[tuple(first)] = False
    values, covered = np.zeros(shape), np.zeros(shape, bool)
    place = tuple(slice(whole[axis], whole[axis] + picture.shape[axis]) for axis in (0, 1))
    values[place], covered[place] = picture, inside
    return values, covered


def _lateral_range(stack: Stack) -> tuple[np.ndarray, np.ndarray]:
    """The whole pixels by which slices reach beyond the first one, to both sides, (2,) each."""
    pixels = np.round(stack.shift[:, :2] / stack.spacing[:2], 6)
    return np.floor(pixels.min(0)).astype(int), np.ceil(pixels.max(0)).astype(int)


def _planes(stack: Stack) -> int:
    return int(np.floor(stack.shift[-1, 2] / stack.spacing[2] + 1e-3)) + 1
