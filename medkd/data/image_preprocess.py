"""From a stored image to what the network sees, and where its coordinates went: for training and prediction alike."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.data.image_files import SUFFIXES as PICTURES
from medkd.data.image_files import read_image
from medkd.data.image_options import ImagePreprocess
from medkd.errors import InputError
from medkd.imaging.geometry import to_canonical
from medkd.imaging.nifti import read_nifti


def read_pixels(path: Path, canonical: bool = False) -> np.ndarray:
    """(H, W), (H, W, 3) or (X, Y, Z), as stored: a PNG or JPEG, or a NIfTI volume. Raises InputError.

    canonical: a volume with its axes turned, without interpolation, to point most nearly right, anterior and superior.
    """
    if path.name.lower().endswith(PICTURES):
        return read_image(path)
    scan = read_nifti(path)
    return to_canonical(scan.array, scan.affine)[0] if canonical else scan.array


def prepare_image(array: np.ndarray, options: ImagePreprocess) -> tuple[np.ndarray, Tensor]:
    """Scale intensities and size. Returns (C, *size), uint8 (8-bit pictures over their full range) or uint16, both the
    whole of [0, 1] (`as_float`), and the matrix (D + 1, D + 1) float64 from original to network coordinates.

    Colours of three channels share one scaling. Sizes are changed linearly with antialiasing (2-D) from edge to edge.
    Raises InputError for an image that has not the dimensions of the options.
    """
    colour = options.dims == 2 and array.ndim == 3 and array.shape[-1] == 3
    if array.ndim != options.dims and not colour:
        raise InputError(f"an image of shape {array.shape} is not {options.dims}-D")
    values = torch.from_numpy(_scaled(array, options))
    values = values.movedim(-1, 0) if colour else values[None]
    old = tuple(values.shape[1:])
    factors = [new / before for new, before in zip(options.size, old)]
    if options.keep_aspect:
        factors = [min(factors)] * options.dims
    new = [max(1, min(limit, round(before * f))) for before, f, limit in zip(old, factors, options.size)]
    if tuple(new) != old:
        flat = options.dims == 2
        mode = "bilinear" if flat else "trilinear"
        values = F.interpolate(values[None], new, mode=mode, align_corners=False, antialias=flat)[0]
    padding = [n for limit, size in zip(reversed(options.size), reversed(new)) for n in (0, limit - size)]
    scales = [size / before for size, before in zip(new, old)]
    diagonal = [*(scales[::-1] if options.dims == 2 else scales), 1.0]
    kind = np.uint8 if array.dtype == np.uint8 and options.intensity == "full" else np.uint16
    levels = np.iinfo(kind).max
    pixels = (F.pad(values, padding).clamp(0, 1) * levels).round().numpy().astype(kind)
    return pixels, torch.diag(torch.tensor(diagonal, dtype=torch.float64))


def as_float(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 as float32 in [0, 1]."""
    return (pixels / np.float32(np.iinfo(pixels.dtype).max)).astype(np.float32)


def _scaled(array: np.ndarray, options: ImagePreprocess) -> np.ndarray:
    """float32 in [0, 1]."""
    if options.intensity == "full":
        if array.dtype not in (np.uint8, np.uint16):
            raise InputError(f"intensity full needs pixels of 8 or 16 bits, not {array.dtype}; choose window")
        return as_float(array)
    low, high = options.low, options.high
    if options.intensity == "percentile":
        foreground = array[array > array.min()]
        low, high = np.percentile(foreground if foreground.size else array, options.percentiles)
    values = (array.astype(np.float32) - np.float32(low)) / np.float32(max(high - low, 1e-6))
    return np.asarray(values.clip(0, 1), np.float32)
