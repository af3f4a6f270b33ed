"""The voxels of a planned volume."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from medkd.errors import InputError, raise_all
from medkd.imaging.dicom import mosaic, tags
from medkd.imaging.dicom.layout import pixel_layout
from medkd.imaging.dicom.pixels import stored_pixels
from medkd.imaging.dicom.resample import resample
from medkd.imaging.dicom.rescale import apply, scaling
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.values import text
from medkd.imaging.dicom.volumes import Volume, inverts
from medkd.imaging.geometry import voxel_sizes
from medkd.imaging.nifti import Scan


def read_volume(volume: Volume, allow_resample: bool = False) -> Scan:
    """Read a volume on the grid that its plan states, modality values (slope and intercept applied).

    Array (X, Y, Z), laid out in memory as NIfTI files are (Fortran order): an integer type where every slope is 1 and
    every intercept whole, else float32, or float64 where float32 would round. Raises InputError that lists every
    problem of the plan (`allow_resample` lets those pass that resampling solves: linear along the slice normal, as
    `volume.fix` says; the result is float32) or says why the pixels cannot be decoded.
    """
    if volume.problems and not (allow_resample and volume.resamplable):
        hint = f" (with --allow-resample: {volume.fix})" if volume.resamplable else ""
        raise InputError([*volume.problems[:-1], volume.problems[-1] + hint])
    scalings = [scaling(volume.series.headers[file], frame) for file, frame in volume.frames]
    raise_all(sorted({scale for scale in scalings if isinstance(scale, str)}))
    values = apply(_stored(volume), [scale for scale in scalings if not isinstance(scale, str)])
    array = values.transpose(2, 1, 0)
    if not volume.regular:
        array = resample(array, volume.shift, voxel_sizes(volume.affine), volume.shape)
    return Scan(array, volume.affine, volume.spacing)


def _stored(volume: Volume) -> np.ndarray:
    """(Z, Y, X) stored values in a type that holds those of every file; MONOCHROME1 inverted where that is due."""
    slices: dict[int, list[int]] = defaultdict(list)
    for z, (file, _) in enumerate(volume.frames):
        slices[file].append(z)
    out = np.empty(0)
    for file, where in slices.items():
        pixels = _grey(volume.series, file, [volume.frames[z][1] for z in where])
        if not out.size:
            out = np.empty((len(volume.frames), *pixels.shape[1:]), pixels.dtype)
        elif out.dtype != pixels.dtype:
            out = out.astype(np.result_type(out.dtype, pixels.dtype))
        out[where] = pixels
    return out


def _grey(series: Series, file: int, frames: list[int]) -> np.ndarray:
    """Frames of a file, or tiles of its mosaic: (n, rows, columns)."""
    path, header, at = series.files[file], series.headers[file], series.pixels_at[file]
    if mosaic.is_mosaic(header):
        tiles = mosaic.layout(header)
        assert isinstance(tiles, mosaic.Layout)
        pixels = mosaic.cut(stored_pixels(path, header, at)[0], tiles.side)[frames]
    else:
        pixels = stored_pixels(path, header, at, frames)
    if pixels.ndim != 3 or pixels.dtype.kind not in "iu":
        raise InputError(f"{path.name} is a colour image; grey values are needed")
    if text(header, tags.PHOTOMETRIC_INTERPRETATION) == "MONOCHROME1" and inverts(series.modality):
        np.subtract(pixel_layout(header).bright, pixels, out=pixels, casting="unsafe")
    return pixels
