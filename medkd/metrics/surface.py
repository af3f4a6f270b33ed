"""Distances between the surfaces of two masks, computed once, and the three metrics read from them.

The surface of a mask is the set of its voxels that have at least one face neighbour outside it; outside the
image counts as outside the mask. Distances run between voxel centres. MONAI and medpy define both so.
A 3-D array with a single slice is all surface: pass it as 2-D.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from medkd.errors import raise_all
from medkd.metrics.overlap import Mask, check_masks

HD95 = Literal["max", "pooled"]


@dataclass(frozen=True)
class SurfaceDistances:
    """From every surface voxel of one mask to the nearest one of the other, in the unit of the spacing.

    `to_reference` (P,) starts at the prediction, `to_prediction` (R,) at the reference. If only one mask is
    empty, the other one's distances are infinite.
    """

    to_reference: NDArray[np.float64]
    to_prediction: NDArray[np.float64]

    @property
    def defined(self) -> bool:
        """Whether both masks have a surface; else HD95 and ASSD are NaN."""
        return bool(self.to_reference.size and self.to_prediction.size)

    def hd95(self, definition: HD95 = "max") -> float:
        """95th percentile (linear interpolation) of the Hausdorff distance, by one of two definitions in use.

        "max": the larger of the two directed 95th percentiles (MONAI, `percentile=95`).
        "pooled": the 95th percentile of both directed sets together (medpy's `hd95`).
        """
        raise_all(definition_problems(hd95=definition))
        if not self.defined:
            return math.nan
        if definition == "pooled":
            return float(np.percentile(np.concatenate([self.to_reference, self.to_prediction]), 95))
        return float(max(np.percentile(self.to_reference, 95), np.percentile(self.to_prediction, 95)))

    def assd(self) -> float:
        """Average symmetric surface distance: the mean of both directed sets together ("pooled").

        So do MONAI (`symmetric=True`) and medpy 0.5; the mean of the two directed means is another number.
        """
        if not self.defined:
            return math.nan
        count = self.to_reference.size + self.to_prediction.size
        return float((self.to_reference.sum() + self.to_prediction.sum()) / count)

    def nsd(self, tolerance: float) -> float:
        """Normalised surface Dice: the share of both masks' surface voxels within `tolerance` (inclusive).

        Voxels are counted, as in MONAI with `use_subvoxels=False`; DeepMind's surface-distance weights them
        by surface area and gives other numbers. NaN if both masks are empty, 0 if one is.
        """
        raise_all(definition_problems(nsd_tolerance=tolerance))
        count = self.to_reference.size + self.to_prediction.size
        limit = tolerance * (1 + 1e-9)  # 3 voxels of 1.1 mm are 3.3000000000000003 mm
        close = np.count_nonzero(self.to_reference <= limit) + np.count_nonzero(self.to_prediction <= limit)
        return float(close / count) if count else math.nan


def definition_problems(hd95: str = "max", nsd_tolerance: float = 0.0) -> list[str]:
    """What is wrong with the chosen definitions of HD95 and NSD."""
    problems = []
    if hd95 not in get_args(HD95):
        problems.append(f"hd95 definition {hd95!r} is unknown; allowed: {', '.join(get_args(HD95))}")
    if not (math.isfinite(nsd_tolerance) and nsd_tolerance >= 0):
        problems.append(f"NSD tolerance is {nsd_tolerance!r}; it must be finite and at least 0")
    return problems


def spacing_problems(spacing: Sequence[float] | None, ndim: int) -> list[str]:
    """What is wrong with a spacing: it needs one positive, finite size for every array axis, or None."""
    if spacing is None:
        return []
    values, problems = tuple(spacing), []
    if len(values) != ndim:
        problems.append(f"spacing {values} has {len(values)} values; the array has {ndim} axes: give each one")
    if not all(math.isfinite(size) and size > 0 for size in values):
        problems.append(f"spacing {values} must be positive and finite; pass None where it is unknown")
    return problems


def surface_distances(prediction: Mask, reference: Mask, spacing: Sequence[float] | None = None) -> SurfaceDistances:
    """Surface distances of two boolean masks of one shape, 2-D or 3-D.

    `spacing` is the voxel size along the array axes, e.g. in mm; None measures in voxels.
    Raises InputError for another dtype, two shapes, or a spacing that does not fit.
    """
    check_masks(prediction, reference)
    raise_all(spacing_problems(spacing, prediction.ndim))
    # Cropping to the joint box changes nothing: all surface voxels are in it, and what is beyond is outside.
    box = ndimage.find_objects((prediction | reference).view(np.uint8), max_label=1)[0]
    if box is None:
        return SurfaceDistances(np.empty(0), np.empty(0))
    p, r = _surface(prediction[box]), _surface(reference[box])
    return SurfaceDistances(_directed(p, r, spacing), _directed(r, p, spacing))


def _surface(mask: Mask) -> Mask:
    inner: Mask = ndimage.binary_erosion(mask)  # the default structure is the face neighbours
    return mask & ~inner


def _directed(start: Mask, target: Mask, spacing: Sequence[float] | None) -> NDArray[np.float64]:
    if not target.any():  # the transform of an array without background is meaningless
        return np.full(np.count_nonzero(start), np.inf)
    return np.asarray(ndimage.distance_transform_edt(~target, sampling=spacing)[start], dtype=np.float64)
