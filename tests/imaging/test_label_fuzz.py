"""Damaged label files: read, or refused by an InputError; never another exception. Seeded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nrrd
import numpy as np
import pytest
from synthetic_labels import oblique, write_seg, write_structures

from medkd.errors import InputError
from medkd.imaging.dicom.rtstruct import raster, read_structures
from medkd.imaging.dicom.seg import read_segmentation
from medkd.imaging.geometry import Moved
from medkd.imaging.nifti import read_nifti, write_nifti
from medkd.imaging.nrrd import read_nrrd

SHAPE = (12, 10, 4)
GRID = Moved(oblique(), SHAPE)


def make_seg(path: Path) -> None:
    rng = np.random.default_rng(0)
    write_seg(path, [(1 + z % 2, rng.integers(0, 2, SHAPE[:2]), (0, 0, z)) for z in range(4)], oblique(), ["a", "b"])


def use_seg(path: Path) -> None:
    read_segmentation(path, GRID).merged([1, 2])
    read_segmentation(path).merged([1, 2])


def make_structures(path: Path) -> None:
    corners = np.array([(2, 2), (9, 2), (9, 7), (2, 7)])
    write_structures(
        path, {"a": [(np.column_stack([corners, np.full(4, z), np.ones(4)]) @ oblique().T)[:, :3] for z in (0, 1)]}
    )


def use_structures(path: Path) -> None:
    for structure in read_structures(path).structures:
        raster(structure, GRID)


def make_nrrd(path: Path) -> None:
    fields = {"space": "LPS", "space directions": np.eye(3), "space origin": [1, 2, 3], "encoding": "gzip"}
    nrrd.write(str(path), np.arange(480, dtype=np.int16).reshape(SHAPE), fields)


def make_nifti(path: Path) -> None:
    write_nifti(path, np.arange(480, dtype=np.int16).reshape(SHAPE), oblique())


KINDS: dict[str, tuple[str, Callable[[Path], None], Callable[[Path], object]]] = {
    "seg": ("a.dcm", make_seg, use_seg),
    "structures": ("a.dcm", make_structures, use_structures),
    "nrrd": ("a.nrrd", make_nrrd, read_nrrd),
    "nifti": ("a.nii", make_nifti, read_nifti),
}


def damaged(content: bytes, rng: np.random.Generator) -> bytes:
    """Bytes overwritten, cut out, doubled or cut off."""
    changed = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at, length = int(rng.integers(0, len(changed))), int(rng.integers(1, 9))
        kind = rng.integers(0, 5)
        if kind <= 1:
            changed[at : at + length] = rng.integers(0, 256, length, dtype=np.uint8).tobytes()
        elif kind == 2:
            del changed[at : at + length]
        elif kind == 3:
            changed[at:at] = changed[at : at + length]
        else:
            changed[at] = int(rng.choice([0, 0xFF, 0x7F, 0x20, 0x39, 0x2D]))
    return bytes(changed[: rng.integers(1, len(changed) + 1)] if rng.random() < 0.1 else changed)


def run(kind: str, folder: Path, cases: int) -> tuple[int, int]:
    """How many damaged files were read, and how many were refused."""
    name, make, use = KINDS[kind]
    path = folder / name
    make(path)
    use(path)
    content = path.read_bytes()
    rng = np.random.default_rng(list(kind.encode()))
    refused = 0
    for case in range(cases):
        path.write_bytes(damaged(content, rng))
        try:
            use(path)
        except InputError:
            refused += 1
        except Exception as error:
            raise AssertionError(f"{kind}, case {case}: {error!r}") from error
    return cases - refused, refused


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    read, refused = run(kind, tmp_path, 150)
    assert read
    assert refused


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_damaged_files_are_read_or_refused(kind: str, tmp_path: Path) -> None:
    read, refused = run(kind, tmp_path, 2000)
    assert read + refused == 2000
