"""Slices of volumes as a radiologist expects to see them: which slice, which way up, how wide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from medkd.errors import raise_all

Plane = Literal["axial", "coronal", "sagittal"]
PLANES: tuple[Plane, ...] = ("sagittal", "coronal", "axial")
"""The plane that is left when the canonical axis x, y or z is cut."""
CONVENTION: dict[Plane, str] = {
    "axial": "image left = patient right, anterior up",
    "coronal": "image left = patient right, superior up",
    "sagittal": "image left = anterior, superior up",
}


@dataclass(frozen=True)
class Slice:
    """One slice of one case, on canonical (RAS+) axes: axial (X, Y), coronal (X, Z), sagittal (Y, Z).

    truth and prediction: class indices of the image's shape, 0 is the background. spacing: mm along both array axes,
    (1, 1) where unknown. dice: class name -> Dice of the whole case, NaN where undefined. note: a few words for the
    title. Raises InputError on shapes that do not fit.
    """

    case: str
    image: np.ndarray
    truth: np.ndarray | None = None
    prediction: np.ndarray | None = None
    spacing: tuple[float, float] = (1.0, 1.0)
    dice: Mapping[str, float] | None = None
    note: str = ""
    plane: Plane = "axial"

    def __post_init__(self) -> None:
        problems = []
        if self.image.ndim != 2 or 0 in self.image.shape:
            problems.append(f"case {self.case}: the image has shape {self.image.shape}; one slice is (H, W)")
        for name, label in (("truth", self.truth), ("prediction", self.prediction)):
            if label is not None and label.shape != self.image.shape:
                problems.append(f"case {self.case}: {name} has shape {label.shape}, the image {self.image.shape}")
        if len(self.spacing) != 2 or not all(np.isfinite(s) and s > 0 for s in self.spacing):
            problems.append(f"case {self.case}: spacing is {self.spacing}; give two positive numbers of mm")
        raise_all(problems)

    @property
    def size(self) -> tuple[float, float]:
        """Width and height on the screen, in mm."""
        return self.image.shape[0] * self.spacing[0], self.image.shape[1] * self.spacing[1]


def cut(
    case: str,
    image: np.ndarray,
    truth: np.ndarray | None = None,
    prediction: np.ndarray | None = None,
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    *,
    axis: int = 2,
    index: int | None = None,
    dice: Mapping[str, float] | None = None,
) -> Slice:
    """A slice of canonical volumes (X, Y, Z), spacing in mm; by default the one where the truth (else the prediction)
    is largest."""
    volumes = {"image": image, "truth": truth, "prediction": prediction}
    raise_all(
        [
            f"case {case}: {name} has shape {v.shape}; all need the one shape (X, Y, Z), the image has {image.shape}"
            for name, v in volumes.items()
            if v is not None and (v.ndim != 3 or v.shape != image.shape)
        ]
    )
    if index is None:
        shown = truth if truth is not None and (truth > 0).any() else prediction
        index = best_slice(shown, axis) if shown is not None else image.shape[axis] // 2
    planes = {name: None if v is None else np.take(v, index, axis) for name, v in volumes.items()}
    in_plane = tuple(s for a, s in enumerate(spacing) if a != axis)
    note = f"{PLANES[axis]} slice {index + 1} of {image.shape[axis]}"
    return Slice(case, **planes, spacing=in_plane, dice=dice, note=note, plane=PLANES[axis])  # type: ignore[arg-type]


def best_slice(label: np.ndarray, axis: int = 2) -> int:
    """Index along `axis` of the slice with the most foreground (class above 0), the middle one if there is none."""
    others = tuple(a for a in range(label.ndim) if a != axis % label.ndim)
    counts = (label > 0).sum(axis=others)
    return int(counts.argmax()) if counts.any() else label.shape[axis] // 2


def radiological(plane: np.ndarray) -> np.ndarray:
    """A canonical slice (A, B, ...) as an image (rows, columns, ...).

    Canonical indices grow to the right, anterior and superior, and the row index of an image grows downwards, so both
    axes are reversed and the first becomes the horizontal one: patient right at the left, anterior (superior) up.
    """
    return plane[::-1, ::-1].swapaxes(0, 1)
