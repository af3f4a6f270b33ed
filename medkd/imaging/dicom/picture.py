"""One DICOM file that is one grey picture (mammograms, radiographs): pixels, size on the detector, whose it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medkd.errors import InputError
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.header import read_header
from medkd.imaging.dicom.layout import pixel_layout
from medkd.imaging.dicom.pixels import stored_pixels
from medkd.imaging.dicom.rescale import apply, scaling
from medkd.imaging.dicom.series import group
from medkd.imaging.dicom.values import text
from medkd.imaging.dicom.volumes import inverts

IMAGER_PIXEL_SPACING = 0x00181164
PIXEL_SPACING = 0x00280030


@dataclass(frozen=True)
class Picture:
    """pixels: (H, W) uint16, bright is dense whatever the photometric interpretation. spacing: mm down and across, at
    the detector, or None. patient: as stored, an identifier: for grouping only."""

    pixels: np.ndarray
    spacing: tuple[float, ...] | None
    patient: str = field(repr=False)


def read_picture(path: Path, allow_burned_in: bool = False) -> Picture:
    """Read a DICOM file of one frame, slope and intercept applied, MONOCHROME1 inverted; no window is applied.

    Raises InputError: not DICOM, several frames, colour, text in the pixels (unless allowed), values that are not
    whole or do not fit 16 bits.
    """
    header = read_header(path)
    if header is None:
        raise InputError(f"{path.name} is not DICOM")
    (series,) = group([(path, header)])
    data = header.dataset
    if series.burned_in and not allow_burned_in:
        raise InputError(f"{path.name}: its pixels may name the patient: {series.burned_in}")
    if series.kind != "image":
        raise InputError(f"{path.name} holds no image")
    stored = stored_pixels(path, data, header.pixels_at)
    if len(stored) != 1 or stored.ndim != 3 or stored.dtype.kind not in "iu":
        raise InputError(f"{path.name}: one frame of grey values is needed, not an array of shape {stored.shape}")
    if text(data, tags.PHOTOMETRIC_INTERPRETATION) == "MONOCHROME1" and inverts(series.modality):
        stored = (pixel_layout(data).bright - stored.astype(np.int64)).astype(np.int64)
    scale = scaling(data, 0)
    if isinstance(scale, str):
        raise InputError(f"{path.name}: {scale}")
    values = apply(stored, [scale])[0].astype(np.float64)
    low, high = float(values.min()), float(values.max())
    offset = min(low, 0.0)  # signed values are moved to start at 0: a picture has no zero of its own
    if high - offset > np.iinfo(np.uint16).max or (values != np.rint(values)).any():
        raise InputError(f"{path.name}: values from {low:g} to {high:g} are not whole numbers of 16 bits")
    return Picture((values - offset).astype(np.uint16), _spacing(data), series.patient)


def _spacing(data: object) -> tuple[float, ...] | None:
    for tag in (IMAGER_PIXEL_SPACING, PIXEL_SPACING):
        try:
            found = tuple(float(v) for v in data[tag].value)  # type: ignore[index]
        except (KeyError, TypeError, ValueError):
            continue
        if len(found) == 2 and min(found) > 0:
            return found
    return None
