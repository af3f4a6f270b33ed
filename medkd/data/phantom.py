"""A generated cohort of cardiac-like patients: no download, no licence, and a mismatch that exists by construction.

Every volume is a short-axis stack: a bright disc (left ventricle, 3) in a mid-grey ring (myocardium, 2) beside a
crescent (right ventricle, 1), all smaller towards the apex, in a dark body with textured blobs of the same grey values,
under a bias field and noise. The labelled patients are drawn from a narrower range of contrast, size and pose than all
others: the labelled scans do not show what the rest looks like, which is what BCP is about.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from medkd.imaging.nifti import write_nifti

CLASSES = ("background", "rv", "myo", "lv")
SPACING = (1.5, 1.5, 8.0)  # mm


@dataclass(frozen=True)
class PhantomOptions:
    """width: how wide the labelled patients' range is as a share of the others'; 1 takes the mismatch away."""

    labelled: int = 2
    unlabelled: int = 24
    validation: int = 4
    test: int = 12
    size: int = 64
    slices: tuple[int, int] = (5, 7)
    width: float = 0.3
    seed: int = 0


def write_cohort(out: Path, options: PhantomOptions) -> None:
    """Write OUT/images, OUT/labels (NIfTI) and OUT/cases.csv (case, patient, split, labelled)."""
    out.mkdir(parents=True, exist_ok=True)
    with (out / "cases.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["case", "patient", "split", "labelled"])
        for number, (split, labelled) in enumerate(_roles(options)):
            rng = np.random.default_rng([options.seed, number])
            narrow = labelled and split == "train"
            image, label = generate_patient(rng, options.size, options.slices, options.width if narrow else 1.0)
            name = f"phantom{number:03d}"
            affine = _affine(rng, image.shape)
            write_nifti(out / "images" / f"{name}.nii.gz", image, affine)
            write_nifti(out / "labels" / f"{name}.nii.gz", label, affine)
            table.writerow([name, name, split, "yes" if labelled else "no"])


def _roles(options: PhantomOptions) -> Iterator[tuple[str, bool]]:
    yield from [("train", True)] * options.labelled
    yield from [("train", False)] * options.unlabelled
    yield from [("val", True)] * options.validation
    yield from [("test", True)] * options.test


def generate_patient(
    rng: np.random.Generator, size: int = 64, slices: tuple[int, int] = (5, 7), width: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """One patient: image (X, Y, Z) int16 and label (X, Y, Z) uint8.

    width: share of every range that is drawn from, about its middle.
    """

    def draw(low: float, high: float) -> float:
        middle, half = (low + high) / 2, (high - low) / 2 * width
        return float(rng.uniform(middle - half, middle + half))

    depth = int(rng.integers(slices[0], slices[1] + 1))
    scale = draw(0.7, 1.3) * size / 64
    ring, wall = 10.0 * scale, draw(0.28, 0.5)  # outer radius of the ring in pixels; its wall as a share of it
    centre = size / 2 + np.array([draw(-7, 7), draw(-7, 7)]) * size / 64
    angle = draw(-0.9, 0.9)  # where the right ventricle lies, from the -x direction
    grey = {"body": draw(0.12, 0.3), "lv": draw(0.65, 1.0), "myo": draw(0.3, 0.52), "rv": draw(0.55, 0.95)}
    blob = draw(0.5, 1.0)

    x, y = np.meshgrid(np.arange(size), np.arange(size), indexing="ij")
    image = np.zeros((size, size, depth))
    label = np.zeros((size, size, depth), np.uint8)
    background = _background(rng, size, grey["body"], blob)
    drift = np.array([draw(-0.6, 0.6), draw(-0.6, 0.6)])
    for z in range(depth):
        taper = 1.0 - 0.45 * z / max(1, depth - 1)  # base to apex
        u, v = x - centre[0] - drift[0] * z, y - centre[1] - drift[1] * z
        distance = np.hypot(u, v) / taper
        direction = angle + 0.06 * z
        # the crescent: a disc beside the ring, less the ring
        ru, rv = u + 1.05 * ring * taper * np.cos(direction), v + 1.05 * ring * taper * np.sin(direction)
        along = ru * np.cos(direction) + rv * np.sin(direction)
        across = -ru * np.sin(direction) + rv * np.cos(direction)
        crescent = np.hypot(along / 0.85, across / 1.1) / taper < ring
        slice_label = np.where(crescent, 1, 0)
        slice_label = np.where(distance < ring, 2, slice_label)
        slice_label = np.where(distance < ring * (1 - wall), 3, slice_label)
        label[..., z] = slice_label
        values = np.where(slice_label == 1, grey["rv"], background[..., z % background.shape[2]])
        values = np.where(slice_label == 2, grey["myo"], values)
        values = np.where(
            slice_label == 3, grey["lv"] * (1 - 0.25 * _papillary(u, v, ring * taper * (1 - wall))), values
        )
        image[..., z] = ndimage.gaussian_filter(values, 0.7)
    field = 1 + draw(-0.35, 0.35) * (x / size - 0.5) + draw(-0.35, 0.35) * (y / size - 0.5)
    image = image * field[..., None] + rng.normal(0, draw(0.02, 0.08), image.shape)
    texture = ndimage.gaussian_filter(rng.normal(0, 1, image.shape), (2, 2, 0.5))
    image += draw(0.0, 0.12) * texture / texture.std()
    return (image.clip(0, 2) * draw(300, 900)).astype(np.int16), label


def _background(rng: np.random.Generator, size: int, body: float, blob: float) -> np.ndarray:
    """A dark body with an outline, and blobs (lungs, liver, fat) whose grey values are those of the heart."""
    x, y = np.meshgrid(np.linspace(-1, 1, size), np.linspace(-1, 1, size), indexing="ij")
    inside = (x / 0.95) ** 2 + (y / 0.85) ** 2 < 1
    smooth = ndimage.gaussian_filter(rng.normal(0, 1, (size, size, 3)), (size / 12, size / 12, 0.5))
    smooth /= smooth.std()
    values = np.where(inside[..., None], body + 0.06 * smooth, 0.03)
    organs = (smooth > 1.0) & inside[..., None]
    lungs = (smooth < -1.1) & inside[..., None]
    values = np.where(organs, blob * (0.75 + 0.2 * np.sin(9 * x + 7 * y)[..., None]), values)
    return np.where(lungs, 0.05, values)


def _papillary(u: np.ndarray, v: np.ndarray, radius: float) -> np.ndarray:
    """Two dark spots in the blood pool: the papillary muscles, part of the left ventricle."""
    near = np.minimum(np.hypot(u - 0.45 * radius, v - 0.3 * radius), np.hypot(u - 0.2 * radius, v + 0.5 * radius))
    return np.exp(-((near / (0.2 * radius + 0.5)) ** 2))


def _affine(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A slightly oblique short-axis grid with thick slices."""
    tilt = rng.uniform(-0.25, 0.25, 3)
    rotation = np.eye(3)
    for axis, a in enumerate(tilt):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = np.cos(a), -np.sin(a), np.sin(a), np.cos(a)
        rotation = rotation @ turn
    affine = np.eye(4)
    affine[:3, :3] = rotation * np.array(SPACING)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) / 2)
    return affine
