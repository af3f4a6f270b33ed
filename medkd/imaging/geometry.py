"""Where voxels lie in the patient: comparing grids, and turning arrays to RAS+ axes and exactly back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import nibabel.orientations as orient
import numpy as np

from medkd.errors import InputError, raise_all

RAS = orient.axcodes2ornt(("R", "A", "S"))
TOLERANCE = 1e-3
"""Largest distance, as a share of the smallest voxel edge, by which two grids may differ anywhere and be called one."""


class Grid(Protocol):
    """Anything with an affine and a shape: a scan, or a header that was read without its voxels."""

    @property
    def affine(self) -> np.ndarray: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Moved:
    """A grid that is neither a scan's nor a header's."""

    affine: np.ndarray
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reorientation:
    """An axis permutation and flips (nibabel's orientation array), and the shape they were applied to."""

    orientation: np.ndarray
    shape: tuple[int, ...]

    def undo(self, array: np.ndarray) -> np.ndarray:
        """An array on the RAS+ grid, back on the scan's own grid; exact, no interpolation."""
        back = orient.apply_orientation(array, orient.ornt_transform(RAS, self.orientation))
        if back.shape != self.shape:
            raise ValueError(f"an array of shape {array.shape} does not come from a scan of shape {self.shape}")
        return np.ascontiguousarray(back)


def to_canonical(array: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray, Reorientation]:
    """Permute and flip the axes so that they point most nearly right, anterior and superior.

    array: (X, Y, Z). affine: (4, 4) voxel to RAS mm. Returns the view, its affine, and how to go back. A voxel keeps
    its place in the patient.
    """
    orientation = orient.io_orientation(affine)
    turned = orient.apply_orientation(array, orientation)
    return turned, affine @ orient.inv_ornt_aff(orientation, array.shape), Reorientation(orientation, array.shape)


def realign(array: np.ndarray, affine: np.ndarray, grid: Grid) -> np.ndarray:
    """An array (X, Y, Z) whose voxels are those of a grid, with the axes of the grid: exact, no interpolation.

    affine: (4, 4) of the array. Raises InputError where no order and direction of its axes gives the grid.
    """
    steps = np.linalg.solve(grid.affine, affine)[:3, :3]
    order = np.abs(steps).argmax(0)
    if sorted(order) != [0, 1, 2]:
        raise InputError("its voxel axes lie between those of the other grid")
    orientation = np.array([(axis, np.sign(steps[axis, i])) for i, axis in enumerate(order)])
    turned = orient.apply_orientation(array, orientation)
    moved = Moved(affine @ orient.inv_ornt_aff(orientation, array.shape), turned.shape)
    raise_all(differences(grid, moved))
    return np.ascontiguousarray(turned)


def flip_lps(places: np.ndarray) -> np.ndarray:
    """DICOM's patient axes (left, posterior, superior) as RAS, and back: it is its own inverse.

    places: points or directions (..., 3), or an affine (4, 4) that gives them.
    """
    if places.shape == (4, 4):
        return np.diag([-1.0, -1.0, 1.0, 1.0]) @ places
    return places * np.array([-1.0, -1.0, 1.0])


def voxel_sizes(affine: np.ndarray) -> np.ndarray:
    """(3,) edge lengths in mm along the array axes."""
    return np.linalg.norm(affine[:3, :3], axis=0)


def differences(a: Grid, b: Grid) -> list[str]:
    """What differs between two grids, in words for an error message; empty if they are one grid."""
    if a.shape != b.shape:
        return [f"shape {a.shape} against {b.shape}"]
    distance = displacement(a.affine, b.affine, a.shape)
    sizes = voxel_sizes(a.affine)
    tolerance = TOLERANCE * sizes.min()
    if distance <= tolerance:
        return []
    notes = [f"voxels lie up to {distance:.3g} mm apart"]
    axes = ["".join(orient.aff2axcodes(grid.affine)) for grid in (a, b)]
    if axes[0] != axes[1]:
        notes.append(f"axes {axes[0]} against {axes[1]}")
    for name, x, y in (("voxel size", sizes, voxel_sizes(b.affine)), ("origin", a.affine[:3, 3], b.affine[:3, 3])):
        if not np.allclose(x, y, atol=tolerance):
            notes.append(f"{name} {_numbers(x)} against {_numbers(y)} mm")
    return notes


def displacement(a: np.ndarray, b: np.ndarray, shape: tuple[int, ...]) -> float:
    """The farthest in mm that two affines (4, 4) place one voxel of a (X, Y, Z) grid apart: it is at a corner."""
    corners = np.array(np.meshgrid(*[(0, n - 1) for n in shape], [1.0], indexing="ij")).reshape(4, -1)
    return float(np.linalg.norm(((a - b) @ corners)[:3], axis=0).max())


def problems_of(affine: np.ndarray) -> list[str]:
    """Why an affine cannot be trusted; empty if it can."""
    if not np.isfinite(affine).all():
        return ["the affine holds numbers that are not finite"]
    sizes = voxel_sizes(affine)
    if (sizes <= 0).any() or abs(np.linalg.det(affine[:3, :3] / np.where(sizes > 0, sizes, 1))) < 1e-3:
        return ["the affine is singular: voxel axes are zero or parallel"]
    return []


def _numbers(values: Any) -> str:
    return "(" + ", ".join(f"{v:.4g}" for v in values) + ")"
