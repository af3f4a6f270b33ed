"""NRRD files (.nrrd, or .nhdr beside its data): read like NIfTI, every error in one sentence."""

from __future__ import annotations

import bz2
import gzip
import zlib
from pathlib import Path
from typing import IO, Any

import nrrd
import numpy as np

from medkd.errors import InputError
from medkd.imaging.geometry import problems_of, voxel_sizes
from medkd.imaging.nifti import Header, Scan

SUFFIXES = (".nrrd", ".nhdr")
SPACES = {
    "right-anterior-superior": (1.0, 1.0, 1.0),
    "left-anterior-superior": (-1.0, 1.0, 1.0),
    "left-posterior-superior": (-1.0, -1.0, 1.0),
}
"""What the axes of a patient space are multiplied with to be right, anterior, superior."""
SPACES |= {"".join(word[0] for word in name.split("-")): signs for name, signs in SPACES.items()}
TYPES = {
    "i1": "signed char, int8, int8_t",
    "u1": "uchar, unsigned char, uint8, uint8_t",
    "i2": "short, short int, signed short, signed short int, int16, int16_t",
    "u2": "ushort, unsigned short, unsigned short int, uint16, uint16_t",
    "i4": "int, signed int, int32, int32_t",
    "u4": "uint, unsigned int, uint32, uint32_t",
    "i8": "longlong, long long, long long int, signed long long, signed long long int, int64, int64_t",
    "u8": "ulonglong, unsigned long long, unsigned long long int, uint64, uint64_t",
    "f4": "float",
    "f8": "double",
}
"""The format's names of each numpy type."""
DTYPES = {name: np.dtype(code) for code, names in TYPES.items() for name in names.split(", ")}
UNITS = {"mm": 1.0, "millimeter": 1.0, "cm": 10.0, "m": 1000.0, "um": 0.001, "μm": 0.001}
LARGEST = 2**36  # bytes of voxels; a header that promises more is damaged
UNREADABLE = (
    nrrd.NRRDError, OSError, EOFError, ValueError, KeyError, TypeError, IndexError, MemoryError, OverflowError,
    zlib.error,
)  # fmt: skip


def read_nrrd(path: Path) -> Scan:
    """Read a 3-D NRRD file: array (X, Y, Z) as stored, C-ordered and in the machine's byte order.

    Raw, ASCII, gzip and bzip2 voxels; a detached header finds its data in its own folder only. Raises InputError that
    names the file: not NRRD, truncated, not 3-D, no patient space (LPS, RAS or LAS) or directions that cannot be
    trusted.
    """
    path = Path(path)
    header, array = _load(path, voxels=True)
    return Scan(array, header.affine, header.spacing)


def read_nrrd_header(path: Path) -> Header:
    """The grid of a 3-D NRRD file, without reading its voxels. Raises InputError as `read_nrrd` does."""
    return _load(Path(path), voxels=False)[0]


def _load(path: Path, voxels: bool) -> tuple[Header, np.ndarray]:
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path.name} is not .nrrd or .nhdr")
    if not path.is_file():
        raise InputError(f"there is no file {path.name}")
    try:
        with path.open("rb") as file:
            fields = nrrd.read_header(file)
            grid, shape = _grid(fields)
            if not voxels:
                return grid, np.empty(0)
            detached = fields.get("data file", fields.get("datafile"))
            if detached is None:
                array = _voxels(fields, file)
            else:
                with _beside(path, detached).open("rb") as data:
                    array = _voxels(fields, data)
    except InputError as error:
        raise InputError([f"{path.name}: {problem}" for problem in error.problems]) from None
    except UNREADABLE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{path.name} cannot be read, it is truncated or not NRRD ({reason}); copy it again") from None
    return grid, np.ascontiguousarray(array.reshape(shape, order="F"), dtype=array.dtype.newbyteorder("="))


def _grid(fields: dict[str, Any]) -> tuple[Header, tuple[int, ...]]:
    """The grid, and the shape of the stored voxels without axes of length 1 that are no space."""
    sizes = [int(n) for n in fields["sizes"]]
    space = str(fields.get("space", "")).lower()
    if space not in SPACES:
        raise InputError(
            f"its space is {space or 'not stated'}, which does not say where left is; left-posterior-superior,"
            " right-anterior-superior or left-anterior-superior is needed"
        )
    rows = np.array(fields["space directions"], np.float64).reshape(len(sizes), 3)
    spatial = [bool(np.isfinite(row).all()) for row in rows]
    shape = tuple(n for n, is_space in zip(sizes, spatial) if is_space)
    several = [n for n, is_space in zip(sizes, spatial) if not is_space and n != 1]
    if len(shape) != 3 or several or 0 in shape:
        what = f"{several[0]} values a voxel (a list, colour, or layers)" if several else f"sizes {tuple(sizes)}"
        raise InputError(f"it holds {what}; a 3-D volume of single values is needed")
    affine = np.eye(4)
    affine[:3, :3] = rows[spatial].T
    origin = fields.get("space origin")
    affine[:3, 3] = np.zeros(3) if origin is None else np.array(origin, np.float64)
    units = {str(unit).strip('" ') for unit in fields.get("space units", [])} or {"mm"}
    if len(units) > 1 or not units <= set(UNITS):
        raise InputError(f"its unit of length is {', '.join(sorted(units))}; allowed: {', '.join(UNITS)}")
    affine[:3] *= UNITS[units.pop()] * np.array(SPACES[space])[:, None]
    if problems := problems_of(affine):
        raise InputError(problems)
    notes = () if origin is not None else ("its origin was not stated: taken as (0, 0, 0)",)
    return Header(shape, affine, tuple(float(size) for size in voxel_sizes(affine)), notes), shape


def _beside(path: Path, detached: Any) -> Path:
    """The data file of a detached header: a plain name, or the header could make us read anything."""
    name = str(detached)
    if name != Path(name).name or "\\" in name or name.upper().startswith("LIST") or "%" in name or " " in name.strip():
        raise InputError(f"its data lie in {name!r}; one file in the same folder, without blanks, is needed")
    if not (data := path.parent / name).is_file():
        raise InputError(f"its data file {name} is not there")
    return data


def _voxels(fields: dict[str, Any], file: IO[bytes]) -> np.ndarray:
    """Flat stored values; `file` stands where they begin."""
    kind = str(fields["type"])
    if kind not in DTYPES:
        raise InputError(f"holds voxels of the type {kind}; numbers are needed")
    dtype = DTYPES[kind]
    encoding = str(fields["encoding"]).lower()
    text = encoding in ("ascii", "text", "txt")
    if dtype.itemsize > 1 and not text:
        dtype = dtype.newbyteorder("<" if {"little": True, "big": False}[fields["endian"]] else ">")
    count = int(np.prod([int(n) for n in fields["sizes"]], dtype=object))
    if count * dtype.itemsize > LARGEST:
        raise InputError(f"its header promises {count * dtype.itemsize >> 30} GiB of voxels; it is damaged")
    if any(int(fields.get(key, 0)) for key in ("line skip", "lineskip", "byte skip", "byteskip")):
        raise InputError("skips lines or bytes before its voxels, which is not supported; save it again")
    if text:
        values = np.array(file.read().split(), dtype)
    else:
        values = np.frombuffer(_content(file, encoding, count * dtype.itemsize), dtype)
    if values.size != count:
        raise InputError(f"holds {values.size} voxels, not {count}: it is truncated or damaged; copy it again")
    return values


def _content(file: IO[bytes], encoding: str, size: int) -> bytes:
    """At most one byte more than `size`: a small file can inflate to anything."""
    if encoding == "raw":
        data = file.read(size + 1)
    elif encoding in ("gzip", "gz"):
        with gzip.GzipFile(fileobj=file) as inflated:
            data = inflated.read(size + 1)
    elif encoding in ("bzip2", "bz2"):
        with bz2.BZ2File(file) as inflated:
            data = inflated.read(size + 1)
    else:
        raise InputError(f"its voxels are stored as {encoding}; raw, ascii, gzip and bzip2 can be read")
    if len(data) != size:
        raise InputError(
            f"holds {'fewer' if len(data) < size else 'more'} than the {size} bytes of its size; copy it again"
        )
    return data
