"""Generated images with boxes, a source and a shifted target: mammograms and blood smears, and volumes with nodules.

Mammograms: a breast-shaped half ellipse with 1/f texture, spiculated bright masses (the one class), and spots of bright
texture that are none. Volumes: a noisy chest-like block with vessels and balls, most of them solid, some fainter and
softer (ground glass), on a grid of SPACING mm. The target domain has another gamma, more noise and less resolution:
what another scanner changes. Smears: data/smear_phantom.py. Seeded, small, and nobody's patient.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Literal

import numpy as np
from scipy import ndimage

from medkd.data.image_files import png_bytes
from medkd.data.smear_phantom import SMEAR, smear
from medkd.imaging.nifti import write_nifti

Domain = Literal["source", "target"]
Kind = Literal["mammograms", "nodules", "smears"]
SPACING = (1.0, 1.0, 1.5)
MASSES, NODULES = ("mass",), ("solid", "ground glass")
CLASSES: dict[Kind, tuple[str, ...]] = {"mammograms": MASSES, "nodules": NODULES, "smears": SMEAR}
STREAM: dict[Kind, int] = {"mammograms": 2, "nodules": 3, "smears": 4}  # kinds with one seed draw apart
CORNERS = {2: ["xmin", "ymin", "xmax", "ymax"], 3: ["xmin", "ymin", "zmin", "xmax", "ymax", "zmax"]}


def write_phantom(
    out: Path, domain: Domain, counts: tuple[int, int, int] = (40, 10, 30), kind: Kind = "mammograms", seed: int = 0
) -> None:
    """Write OUT/images (PNG, or NIfTI) and OUT/boxes.csv with splits, for `prepare_detection`.

    counts: images for train, val and test.
    """
    (out / "images").mkdir(parents=True, exist_ok=True)
    dims, names = 3 if kind == "nodules" else 2, CLASSES[kind]
    with (out / "boxes.csv").open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file)
        table.writerow(["image", "patient", "split", "label", *CORNERS[dims]])
        splits = [split for split, n in zip(("train", "val", "test"), counts) for _ in range(n)]
        for number, split in enumerate(splits):
            rng = np.random.default_rng([seed, number, domain == "target", STREAM[kind]])
            name = f"phantom{number:03d}"
            file_name = f"{name}.nii.gz" if dims == 3 else f"{name}.png"
            image, boxes, labels = _drawn(rng, kind, domain)
            if dims == 3:
                write_nifti(out / "images" / file_name, image, np.diag([*SPACING, 1.0]))
            else:
                (out / "images" / file_name).write_bytes(png_bytes(image))
            rows = [[names[k], *map(float, box)] for k, box in zip(labels, boxes)] or [[""] * (1 + 2 * dims)]
            table.writerows([file_name, name, split, *row] for row in rows)


def _drawn(rng: np.random.Generator, kind: Kind, domain: Domain) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    if kind == "mammograms":
        image, boxes = mammogram(rng, domain)
        return image, boxes, np.zeros(len(boxes), int)
    return nodules(rng, domain) if kind == "nodules" else smear(rng, domain == "target")


def mammogram(
    rng: np.random.Generator, domain: Domain, size: tuple[int, int] = (192, 144)
) -> tuple[np.ndarray, np.ndarray]:
    """uint16 (H, W) of 12 bits, and boxes (N, 4) of its 0 to 2 masses."""
    height, width = size
    y, x = np.mgrid[:height, :width].astype(float) + 0.5
    breast = (x / (0.85 * width)) ** 2 + ((y - height / 2) / (0.46 * height)) ** 2
    inside = ndimage.gaussian_filter((breast < 1).astype(float), 2)
    image = (0.35 + 0.09 * _texture(rng, size)) * inside
    boxes: list[list[float]] = []
    for _ in range(int(rng.choice(3, p=[0.3, 0.5, 0.2]))):
        radius = rng.uniform(5, 11)
        cx, cy = rng.uniform(0.15, 0.6) * width, height / 2 + rng.uniform(-0.28, 0.28) * height
        if any(np.hypot((b[0] + b[2]) / 2 - cx, (b[1] + b[3]) / 2 - cy) < 30 for b in boxes):
            continue
        angle, distance = np.arctan2(y - cy, x - cx), np.hypot(x - cx, y - cy)
        spikes = 1 + 0.25 * np.cos(rng.integers(5, 10) * angle + rng.uniform(0, 6)) + 0.1 * np.cos(13 * angle)
        image += rng.uniform(0.16, 0.3) / (1 + np.exp((distance - radius * spikes) / 1.2))
        boxes.append([cx - 1.3 * radius, cy - 1.3 * radius, cx + 1.3 * radius, cy + 1.3 * radius])
    for _ in range(int(rng.integers(1, 4))):  # glandular tissue: bright, soft, of no sharp edge
        cx, cy, spread = rng.uniform(0.1, 0.6) * width, rng.uniform(0.3, 0.7) * height, rng.uniform(8, 18)
        image += rng.uniform(0.05, 0.12) * np.exp(-((x - cx) ** 2 + (1.5 * (y - cy)) ** 2) / (2 * spread**2))
    return (_scanner(rng, image, domain) * 4095).astype(np.uint16), _kept(boxes, (width, height))


def nodules(
    rng: np.random.Generator, domain: Domain, size: tuple[int, int, int] = (48, 48, 32)
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """int16 (X, Y, Z) like Hounsfield units, boxes (N, 6) in voxels and labels (N,) of its 1 to 3 nodules, which are
    balls in mm: 0 solid, 1 ground glass, one in three."""
    extent = np.array(size) * SPACING  # mm
    grid = np.stack(np.meshgrid(*[(np.arange(n) + 0.5) * mm for n, mm in zip(size, SPACING)], indexing="ij"), -1)
    image = 0.15 + 0.03 * _texture(rng, size)
    for _ in range(4):  # vessels: tubes through the whole volume
        start, along = rng.uniform(0, 1, 3) * extent, rng.normal(size=3)
        along /= np.linalg.norm(along)
        offset = grid - start
        across = np.linalg.norm(offset - (offset @ along)[..., None] * along, axis=-1)
        image += 0.35 * np.exp(-((across / rng.uniform(0.8, 1.4)) ** 2))
    balls: list[tuple[np.ndarray, float]] = []
    labels: list[int] = []
    for _ in range(int(rng.integers(1, 4))):
        faint = int(rng.uniform() < 1 / 3)
        radius = rng.uniform(4, 7) if faint else rng.uniform(3, 6)
        centre = rng.uniform(radius + 1, extent - radius - 1)
        if any(np.linalg.norm(other - centre) < 14 for other, _ in balls):
            continue
        contrast, edge = (rng.uniform(0.18, 0.26), 0.9) if faint else (rng.uniform(0.4, 0.6), 0.4)
        image += contrast / (1 + np.exp((np.linalg.norm(grid - centre, axis=-1) - radius) / edge))
        balls.append((centre, radius))
        labels.append(faint)
    boxes = [[*((centre - radius) / SPACING), *((centre + radius) / SPACING)] for centre, radius in balls]
    return (_scanner(rng, image, domain) * 1400 - 1000).astype(np.int16), _kept(boxes, size), np.array(labels, int)


def _scanner(rng: np.random.Generator, image: np.ndarray, domain: Domain) -> np.ndarray:
    """[0, 1]: noise of the detector; in the target domain less resolution, another gamma, more noise."""
    if domain == "target":
        image = ndimage.gaussian_filter(image, 1.0).clip(0, 1) ** 0.6 * 0.85 + 0.05
    noise = 0.035 if domain == "target" else 0.012
    return np.asarray((image + rng.normal(0, noise, image.shape)).clip(0, 1))


def _texture(rng: np.random.Generator, size: tuple[int, ...]) -> np.ndarray:
    """Noise whose amplitude falls as 1 / f, of standard deviation 1."""
    frequency = np.sqrt(sum(f**2 for f in np.meshgrid(*[np.fft.fftfreq(n) for n in size], indexing="ij")))
    spectrum = np.fft.fftn(rng.normal(size=size)) / np.maximum(frequency, 1 / max(size))
    values = np.fft.ifftn(spectrum).real
    return np.asarray((values - values.mean()) / values.std())


def _kept(boxes: list[list[float]], limits: tuple[int, ...]) -> np.ndarray:
    """Boxes (N, 2 * D), cut at the border of the image; coordinates to a hundredth."""
    dims = len(limits)
    values = np.array(boxes, np.float64).reshape(-1, 2 * dims).clip(0, [*limits, *limits])
    return np.asarray(values.round(2))
