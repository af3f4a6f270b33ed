"""Scores of one predicted label map against its reference: one row a foreground class.

What an empty mask means is written here once and is never a silent 0 or a silent perfect score:

    prediction  reference   Dice, Jaccard   NSD   HD95, ASSD
    empty       empty       NaN             NaN   NaN          nothing to find, nothing found
    empty       present     0               0     NaN          missed
    present     empty       0               0     NaN          false alarm

NaN means undefined: it is left out of means, and the summary counts it beside them. A mean distance therefore
describes only the structures that were found: read it next to the counts. (Papers often score a missed
structure with distance 0, the best possible, or with the image diagonal, which depends on the field of view.
Neither is done here.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from medkd.errors import raise_all
from medkd.metrics.overlap import dice, grid_problems, jaccard
from medkd.metrics.surface import HD95, definition_problems, spacing_problems, surface_distances

Labels = NDArray[np.integer[Any]]
METRICS = ("dice", "jaccard", "hd95", "assd", "nsd")


@dataclass(frozen=True)
class ClassScore:
    """One class of one case. `hd95` and `assd` are in `unit`; NaN is undefined (module docstring)."""

    name: str
    dice: float
    jaccard: float
    hd95: float
    assd: float
    nsd: float
    unit: str  # "mm", or "voxel" where the spacing is unknown
    hd95_definition: HD95
    nsd_tolerance: float  # in `unit`
    prediction_voxels: int
    reference_voxels: int
    voxel_ml: float | None  # volume of one voxel in millilitres; None in 2-D or without spacing

    @property
    def empty_prediction(self) -> bool:
        return self.prediction_voxels == 0

    @property
    def empty_reference(self) -> bool:
        return self.reference_voxels == 0

    @property
    def columns(self) -> dict[str, str]:
        """Metric -> its name with definition and unit, e.g. hd95 -> hd95_max_mm."""
        return {
            "dice": "dice",
            "jaccard": "jaccard",
            "hd95": f"hd95_{self.hd95_definition}_{self.unit}",
            "assd": f"assd_pooled_{self.unit}",
            "nsd": f"nsd_at_{self.nsd_tolerance:g}{self.unit}",
        }


def segmentation_scores(
    prediction: Labels,
    reference: Labels,
    classes: Sequence[str],
    spacing: Sequence[float] | None,
    *,
    hd95: HD95 = "max",
    nsd_tolerance: float = 1.0,
) -> list[ClassScore]:
    """Dice, Jaccard, HD95, ASSD and NSD of every foreground class of one whole scan.

    prediction, reference: integer label maps of one shape, (H, W) or (D, H, W) in any axis order.
    classes: names by label; classes[0] is the background and is not scored.
    spacing: mm along the array axes, or None: distances are then in voxels.
    hd95: "max" or "pooled", see `SurfaceDistances.hd95`.
    nsd_tolerance: in mm (or voxels without spacing). Choose the disagreement of two human readers; below the
        spacing only surface voxels that coincide count.
    Raises InputError listing every problem: shapes, float arrays, labels beyond the classes, spacing.
    """
    problems = _check(prediction, reference, classes) + spacing_problems(spacing, reference.ndim)
    raise_all(problems + definition_problems(hd95, nsd_tolerance))
    voxel_ml = math.prod(spacing) / 1000 if spacing is not None and len(spacing) == 3 else None
    rows = []
    for label, name in enumerate(classes[1:], start=1):
        p, r = prediction == label, reference == label
        distances = surface_distances(p, r, spacing)
        row = ClassScore(
            name=name,
            dice=dice(p, r),
            jaccard=jaccard(p, r),
            hd95=distances.hd95(hd95),
            assd=distances.assd(),
            nsd=distances.nsd(nsd_tolerance),
            unit="voxel" if spacing is None else "mm",
            hd95_definition=hd95,
            nsd_tolerance=nsd_tolerance,
            prediction_voxels=int(np.count_nonzero(p)),
            reference_voxels=int(np.count_nonzero(r)),
            voxel_ml=voxel_ml,
        )
        rows.append(row)
    return rows


def _check(prediction: Labels, reference: Labels, classes: Sequence[str]) -> list[str]:
    problems = grid_problems(prediction, reference)
    if len(classes) < 2 or len(set(classes)) < len(classes):
        problems.append(f"classes are {tuple(classes)}; needed: background first, then foreground, all different")
    for role, labels in (("prediction", prediction), ("reference", reference)):
        if labels.ndim not in (2, 3) or labels.size == 0:
            problems.append(f"the {role} has shape {labels.shape}; a non-empty 2-D or 3-D label map is needed")
        elif labels.dtype.kind not in "iub":
            problems.append(f"the {role} has dtype {labels.dtype}; integer labels are needed: argmax the scores")
        elif labels.min() < 0 or labels.max() >= len(classes):
            strange = [int(v) for v in np.unique(labels) if not 0 <= v < len(classes)]
            problems.append(
                f"the {role} holds the labels {strange[:10]}; allowed are 0 to {len(classes) - 1}, "
                f"the classes {tuple(classes)}"
            )
    return problems
