"""NIfTI files: read with every error in one sentence, written atomically with a header that holds no free text."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medkd.errors import InputError
from medkd.imaging.geometry import problems_of, voxel_sizes

SUFFIXES = (".nii.gz", ".nii")


@dataclass(frozen=True)
class Scan:
    """A volume on its grid: array (X, Y, Z), affine (4, 4) voxel to RAS mm, spacing in mm or None where not stated."""

    array: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


def read_nifti(path: Path) -> Scan:
    """Read a 3-D NIfTI file. Scaled files come as float, others in their stored type and the machine's byte order.

    Raises InputError that names the file: not NIfTI, truncated, not 3-D, an affine that cannot be trusted.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path.name} is not .nii or .nii.gz")
    try:
        image = nib.load(path)
        array = np.asanyarray(image.dataobj)
    except (nib.filebasedimages.ImageFileError, OSError, EOFError, ValueError, zlib.error) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path.name} cannot be read, it is truncated or not NIfTI ({reason}); copy it again"
        ) from None
    while array.ndim > 3 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim != 3:
        raise InputError(
            f"{path.name} has shape {array.shape}; a 3-D volume is needed: split a 4-D series into volumes"
        )
    if problems := problems_of(image.affine):
        raise InputError(f"{path.name}: {'; '.join(problems)}")
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    return Scan(array, np.asarray(image.affine, np.float64), spacing_of(image))


def spacing_of(image: nib.Nifti1Image) -> tuple[float, ...] | None:
    """Voxel edges in mm, or None if the header states no unit and all edges are 1: then nothing is known."""
    unit = image.header.get_xyzt_units()[0]
    sizes = voxel_sizes(image.affine)
    if unit == "unknown" and np.allclose(sizes, 1):
        return None
    scale = {"meter": 1000.0, "micron": 0.001}.get(unit, 1.0)
    return tuple(float(s) * scale for s in sizes)


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, spacing_known: bool = True) -> None:
    """Write a volume: values, type and affine exactly, no free text, no extensions. Whole or not at all."""
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    image.set_qform(affine, code=1)
    if not np.allclose(image.get_qform(), affine, atol=1e-4):
        image.set_qform(None, code=0)  # a qform cannot hold shears: the sform alone counts
    image.set_sform(affine, code=1)
    image.header.set_xyzt_units("mm" if spacing_known else "unknown")
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else ".nii"
    temporary = path.with_name(f".{path.name}.partial{suffix}")
    nib.save(image, temporary)
    temporary.replace(path)


def write_mask(path: Path, mask: np.ndarray, like: Scan) -> None:
    """Write an integer mask (X, Y, Z) on the grid of a scan, with its affine."""
    if mask.shape != like.shape:
        raise ValueError(f"a mask of shape {mask.shape} does not lie on a scan of shape {like.shape}")
    write_nifti(
        path, mask.astype(np.uint8 if mask.max(initial=0) < 256 else np.int16), like.affine, like.spacing is not None
    )
