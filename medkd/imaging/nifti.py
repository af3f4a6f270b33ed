"""NIfTI files: read with every error in one sentence, written atomically with a header that holds no free text."""

from __future__ import annotations

import gzip
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np

from medkd.errors import InputError
from medkd.imaging.geometry import TOLERANCE, displacement, problems_of, voxel_sizes

SUFFIXES = (".nii.gz", ".nii")
NIFTI2_HEADER = 540  # bytes; the first number of the file says it, in either byte order
TO_MM = {"unknown": 1.0, "mm": 1.0, "meter": 1000.0, "micron": 0.001}
LARGEST_DISAGREEMENT = 0.5
"""In voxel edges: what a q-form may differ from an s-form for the same space. A rounded quaternion stays far below, and
so does one that cannot hold a small shear; beyond it one of the two is stale, and left and right may be swapped."""
UNREADABLE = (
    nib.filebasedimages.ImageFileError,
    nib.spatialimages.HeaderDataError,
    nib.wrapstruct.WrapStructError,
    OSError,
    EOFError,
    ValueError,
    KeyError,  # an undefined unit code
    MemoryError,  # absurd dimensions
    OverflowError,
    struct.error,
    zlib.error,
)


@dataclass(frozen=True)
class Scan:
    """A volume on its grid: array (X, Y, Z), affine (4, 4) voxel to RAS mm, spacing in mm or None where not stated."""

    array: np.ndarray
    affine: np.ndarray
    spacing: tuple[float, ...] | None

    @property
    def shape(self) -> tuple[int, ...]:
        return self.array.shape


@dataclass(frozen=True)
class Header:
    """What a file says of itself without its voxels. `notes`: what a reader had to assume, in words."""

    shape: tuple[int, ...]
    affine: np.ndarray
    spacing: tuple[float, ...] | None
    notes: tuple[str, ...]


def read_nifti(path: Path) -> Scan:
    """Read a 3-D NIfTI file, C-ordered and in the machine's byte order. Scaled files come as float, others as stored.

    Reads to the end, so that the checksum of a .nii.gz is verified. A unit of metres or micrometres becomes mm. The
    affine is rounded to float32, as the format stores it: written again it is the same to the last bit.

    Where both are set, the s-form counts: it alone holds any affine, and nibabel, FSL and SPM prefer it. A q-form that
    differs is noted, or refused if it is mirrored or both claim the same space (`LARGEST_DISAGREEMENT`). Raises
    InputError that names the file: not NIfTI, truncated, not 3-D, an affine that cannot be trusted.
    """
    path = Path(path)
    header, array = _load(path, voxels=True)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{path.name} holds {array.dtype} voxels; convert colour or complex images to grey values")
    array = np.ascontiguousarray(array.reshape(header.shape), dtype=array.dtype.newbyteorder("="))
    return Scan(array, header.affine, header.spacing)


def read_header(path: Path) -> Header:
    """The grid of a 3-D NIfTI file, without reading its voxels. Raises InputError as `read_nifti` does."""
    return _load(Path(path), voxels=False)[0]


def write_nifti(path: Path, array: np.ndarray, affine: np.ndarray, spacing_known: bool = True) -> None:
    """Write a volume: values and type exactly, no free text, no extensions. Whole or not at all.

    The affine is stored as the format has it, in float32: exact where it came from a file's sform. Grids of unknown
    spacing say so in their unit, and do not claim scanner coordinates.
    """
    image = nib.Nifti1Image(array, affine, dtype=array.dtype)
    code = "scanner" if spacing_known else "aligned"
    image.set_qform(affine, code=code)
    if displacement(image.get_qform(), affine, array.shape) > TOLERANCE * voxel_sizes(affine).min():
        image.set_qform(None, code=0)  # a qform cannot hold shears: the sform alone counts
    image.set_sform(affine, code=code)
    image.header.set_xyzt_units("mm" if spacing_known else "unknown")
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = ".nii.gz" if path.name.endswith(".nii.gz") else ".nii"
    temporary = path.with_name(f".{path.name}.partial{suffix}")
    nib.save(image, temporary)
    temporary.replace(path)


def write_mask(path: Path, mask: np.ndarray, like: Scan) -> None:
    """Write an integer mask (X, Y, Z) on the grid of a scan, with its affine: uint8 where it fits, else int16."""
    if mask.shape != like.shape:
        raise ValueError(f"a mask of shape {mask.shape} does not lie on a scan of shape {like.shape}")
    low, high = int(mask.min(initial=0)), int(mask.max(initial=0))
    if mask.dtype.kind not in "iub" or low < -(2**15) or high >= 2**15:
        raise ValueError(f"a mask of {mask.dtype} from {low} to {high} does not fit int16")
    dtype = np.uint8 if low >= 0 and high < 256 else np.int16
    write_nifti(path, mask.astype(dtype), like.affine, like.spacing is not None)


def _load(path: Path, voxels: bool) -> tuple[Header, np.ndarray]:
    """Header and, if asked for, the voxels as stored or scaled (else an empty array)."""
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path.name} is not .nii or .nii.gz")
    if not path.is_file():
        raise InputError(f"there is no file {path.name}")
    array = np.empty(0)
    try:
        with gzip.open(path) if path.name.endswith(".gz") else path.open("rb") as file:
            size = file.read(4)
            file.seek(0)
            two = NIFTI2_HEADER in (int.from_bytes(size, "little"), int.from_bytes(size, "big"))
            kind = nib.Nifti2Image if two else nib.Nifti1Image
            image = kind.from_file_map(kind.make_file_map({"image": file}), mmap=False)
            header = _header(image, path.name)
            if voxels:
                array = np.asarray(image.dataobj)
                while file.read(1 << 20):
                    pass  # gzip checks its checksum only at the end of the file
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(
            f"{path.name} cannot be read, it is truncated or not NIfTI ({reason}); copy it again"
        ) from None
    return header, array


def _header(image: nib.Nifti1Image, name: str) -> Header:
    shape = tuple(int(n) for n in image.shape)
    while len(shape) > 3 and shape[-1] == 1:
        shape = shape[:-1]
    if len(shape) != 3 or 0 in shape:
        fix = "split a 4-D series into volumes" if len(shape) > 3 else "a single slice needs the shape (X, Y, 1)"
        raise InputError(f"{name} has shape {shape}; a 3-D volume is needed: {fix}")
    if problems := problems_of(image.affine):
        raise InputError(f"{name}: {'; '.join(problems)}")
    unit = image.header.get_xyzt_units()[0]
    affine = np.array(image.affine, np.float64)
    affine[:3] *= TO_MM[unit]
    affine = affine.astype(np.float32).astype(np.float64)
    sizes = voxel_sizes(image.affine)
    zooms = np.array(image.header.get_zooms()[:3], np.float64)
    known = unit != "unknown" or not (np.allclose(zooms, 1) and np.allclose(sizes, 1))
    notes = []
    if TO_MM[unit] != 1:
        notes.append(f"its unit was {unit}: converted to mm")
    if unit == "unknown" and known:
        notes.append("its unit was not stated: taken as mm")
    if not (image.header["qform_code"] or image.header["sform_code"]):
        notes.append("its orientation was not stated: taken as left, anterior, superior (the NIfTI default)")
    if not np.allclose(zooms, sizes, rtol=1e-2):
        notes.append("the voxel sizes of its header disagreed with its affine: the affine was kept")
    notes += _other_form(image.header, shape, name)
    return Header(shape, affine, tuple(float(s) for s in voxel_sizes(affine)) if known else None, tuple(notes))


def _other_form(header: nib.Nifti1Header, shape: tuple[int, ...], name: str) -> list[str]:
    """A note if the q-form, which does not count, says something else than the s-form; refuses a contradiction."""
    if not (header["sform_code"] and header["qform_code"]):
        return []
    spaces = [header.get_value_label(code) for code in ("sform_code", "qform_code")]
    sform = header.get_sform()
    try:
        qform = header.get_qform()
        share = displacement(sform, qform, shape) / voxel_sizes(sform).min()
    except (nib.spatialimages.HeaderDataError, ValueError):
        return ["its q-form is damaged: the s-form was kept"]
    if share <= TOLERANCE:
        return []
    mirrored = np.linalg.det(sform[:3, :3]) * np.linalg.det(qform[:3, :3]) < 0  # which no alignment of scans does
    if mirrored or (spaces[0] == spaces[1] and not share <= LARGEST_DISAGREEMENT):
        forms = [
            f"{form} ({space}, axes {''.join(nib.aff2axcodes(affine))})"
            for form, space, affine in zip(("s-form", "q-form"), spaces, (sform, qform))
        ]
        raise InputError(
            f"{name}: its {' and its '.join(forms)} place voxels up to {share:.3g} voxels apart"
            f"{', mirrored' if mirrored else ''}; set both to the one that is right"
        )
    return [
        f"its q-form ({spaces[1]}) differs from its s-form ({spaces[0]}) by {share:.2g} of a voxel: the s-form counts"
    ]
