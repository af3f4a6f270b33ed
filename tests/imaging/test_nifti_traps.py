"""Files that are legal, or nearly, and that a naive reader gets wrong."""

from __future__ import annotations

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medkd.errors import InputError
from medkd.imaging.nifti import Scan, read_header, read_nifti, write_mask, write_nifti

OBLIQUE = np.array([[0.9, -0.5, 0.3, -40], [0.6, 1.1, -0.9, 12.5], [-0.1, 0.4, 7.4, 3.25], [0, 0, 0, 1]], np.float32)


def grey(shape: tuple[int, ...] = (4, 5, 6)) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 999, shape).astype(np.int16)


@pytest.mark.parametrize("position", [30, -8, -5, -2])
def test_one_flipped_bit_in_a_compressed_file_is_seen(tmp_path: Path, position: int) -> None:
    """The last bytes are the checksum: a reader that stops after the voxels never looks at it."""
    path = tmp_path / "a.nii.gz"
    write_nifti(path, grey(), np.eye(4))
    content = bytearray(path.read_bytes())
    content[position] ^= 16
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a\.nii\.gz cannot be read"):
        read_nifti(path)


@pytest.mark.parametrize(
    ("offset", "value"),
    [(40, b"\x09\x00"), (42, b"\xff\xff"), (42, b"\xff\x7f\xff\x7f\xff\x7f"), (70, b"\xe7\x03"), (123, b"\x07")],
    ids=["9 dimensions", "negative size", "absurd size", "unknown type", "unknown unit"],
)
def test_a_damaged_header_is_one_sentence(tmp_path: Path, offset: int, value: bytes) -> None:
    path = tmp_path / "a.nii"
    write_nifti(path, grey(), np.eye(4))
    content = bytearray(path.read_bytes())
    content[offset : offset + len(value)] = value
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a\.nii "):
        read_nifti(path)


def test_metres_become_millimetres_and_say_so(tmp_path: Path) -> None:
    image = nib.Nifti1Image(grey(), np.diag([0.001, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    nib.save(image, tmp_path / "a.nii")
    scan = read_nifti(tmp_path / "a.nii")
    assert np.allclose(scan.affine, np.diag([1, 2, 3, 1]))
    assert scan.spacing is not None
    assert np.allclose(scan.spacing, (1, 2, 3))
    assert any("meter" in note for note in read_header(tmp_path / "a.nii").notes)


@pytest.mark.parametrize(("unit", "size", "known"), [(0, 1.0, False), (0, 2.0, True), (2, 1.0, True)])
def test_spacing_is_unknown_only_without_unit_and_with_all_zooms_one(
    tmp_path: Path, unit: int, size: float, known: bool
) -> None:
    image = nib.Nifti1Image(grey(), np.diag([1, 1, size, 1]))
    image.header["xyzt_units"] = unit
    nib.save(image, tmp_path / "a.nii.gz")
    scan = read_nifti(tmp_path / "a.nii.gz")
    assert (scan.spacing is not None) == known
    write_nifti(tmp_path / "b.nii.gz", scan.array, scan.affine, scan.spacing is not None)
    assert read_nifti(tmp_path / "b.nii.gz").spacing == scan.spacing
    assert nib.load(tmp_path / "b.nii.gz").header.get_xyzt_units()[0] == ("mm" if known else "unknown")


def test_what_the_header_leaves_open_is_noted(tmp_path: Path) -> None:
    image = nib.Nifti1Image(grey(), np.diag([2.0, 2, 2, 1]))
    image.set_sform(None, code=0)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii")
    assert any("orientation was not stated" in note for note in read_header(tmp_path / "a.nii").notes)
    contradicting = nib.Nifti1Image(grey(), np.diag([2.0, 2, 2, 1]))
    contradicting.header["pixdim"][1:4] = 1
    contradicting.header.set_xyzt_units("mm")
    nib.save(contradicting, tmp_path / "b.nii")
    notes = read_header(tmp_path / "b.nii").notes
    assert notes == ("the voxel sizes of its header disagreed with its affine: the affine was kept",)


def test_an_oblique_anisotropic_affine_is_exact_in_both_forms(tmp_path: Path) -> None:
    turn, _ = np.linalg.qr(OBLIQUE[:3, :3])
    for sign in (1, -1):  # right- and left-handed: the q-form needs its qfac
        affine = np.eye(4)
        affine[:3, :3] = turn * [0.7, 1.3, sign * 8.0]
        affine[:3, 3] = (-87.3, 12.9, 401.7)
        affine = affine.astype(np.float32).astype(np.float64)
        write_nifti(tmp_path / "a.nii.gz", grey(), affine)
        image = nib.load(tmp_path / "a.nii.gz")
        assert np.array_equal(read_nifti(tmp_path / "a.nii.gz").affine, affine)
        assert np.array_equal(image.get_sform(), affine)
        assert np.allclose(image.get_qform(), affine, atol=1e-3)
        assert (image.header["qform_code"], image.header["sform_code"]) == (1, 1)


def test_header_and_scan_state_one_grid(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(grey((4, 5, 6, 1, 1)), OBLIQUE), tmp_path / "a.nii.gz")
    header, scan = read_header(tmp_path / "a.nii.gz"), read_nifti(tmp_path / "a.nii.gz")
    assert header.shape == scan.shape == (4, 5, 6)
    assert np.array_equal(header.affine, scan.affine)
    assert header.spacing == scan.spacing
    assert scan.array.flags.c_contiguous


@pytest.mark.parametrize("dtype", [np.int16, np.uint16, np.int64, np.uint64])
def test_extreme_integers_are_not_rescaled(tmp_path: Path, dtype: type) -> None:
    limits = np.iinfo(dtype)
    array = np.full((2, 2, 2), limits.min, dtype)
    array[1] = limits.max
    write_nifti(tmp_path / "a.nii", array, np.eye(4))
    assert np.array_equal(read_nifti(tmp_path / "a.nii").array, array)


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("endian", ["<", ">"])
def test_either_version_in_either_byte_order(tmp_path: Path, kind: type, endian: str) -> None:
    header = kind.header_class(endianness=endian)
    header.set_data_dtype(np.int16)
    nib.save(kind(grey(), OBLIQUE, header), tmp_path / "a.nii.gz")
    scan = read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(scan.array, grey())
    assert scan.array.dtype == np.dtype(np.int16)
    assert scan.array.dtype.isnative
    assert np.allclose(scan.affine, OBLIQUE)


def test_colour_and_complex_voxels_are_refused(tmp_path: Path) -> None:
    colour = np.zeros((3, 3, 3), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    nib.save(nib.Nifti1Image(colour, np.eye(4)), tmp_path / "colour.nii")
    nib.save(nib.Nifti1Image(np.ones((3, 3, 3), np.complex64), np.eye(4)), tmp_path / "complex.nii")
    for name in ("colour.nii", "complex.nii"):
        with pytest.raises(InputError, match="colour or complex"):
            read_nifti(tmp_path / name)


def test_a_singular_affine_and_a_flat_image_are_refused(tmp_path: Path) -> None:
    image = nib.Nifti1Image(grey(), np.eye(4))
    image.header["srow_x"] = 0
    image.header["sform_code"], image.header["qform_code"] = 1, 0
    path = tmp_path / "a.nii"
    path.write_bytes(nib.Nifti1Image(image.dataobj, None, image.header).to_bytes())
    content = bytearray(path.read_bytes())
    content[280:296] = bytes(16)  # srow_x
    content[252:256] = b"\x00\x00\x01\x00"  # qform 0, sform 1
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="singular"):
        read_nifti(path)
    nib.save(nib.Nifti1Image(np.zeros((5, 6), np.int16), np.eye(4)), tmp_path / "flat.nii")
    with pytest.raises(InputError, match=r"\(X, Y, 1\)"):
        read_nifti(tmp_path / "flat.nii")


def test_masks_choose_a_type_that_holds_them(tmp_path: Path) -> None:
    like = Scan(grey((2, 3, 4)), np.diag([1.5, 2, 8, 1]), (1.5, 2, 8))
    mask = np.zeros((2, 3, 4), np.int64)
    for value, dtype in ((255, np.uint8), (256, np.int16), (-1, np.int16)):
        mask[0, 0, 0] = value
        write_mask(tmp_path / "m.nii.gz", mask, like)
        written = read_nifti(tmp_path / "m.nii.gz")
        assert written.array.dtype == dtype
        assert np.array_equal(written.array, mask)
        assert np.array_equal(written.affine, like.affine)
    mask[0, 0, 0] = 70000
    with pytest.raises(ValueError, match="does not fit int16"):
        write_mask(tmp_path / "m.nii.gz", mask, like)
    with pytest.raises(ValueError, match="does not lie on"):
        write_mask(tmp_path / "m.nii.gz", mask[:1], like)


def test_equal_volumes_give_equal_bytes_without_time_or_name(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", grey(), np.eye(4))
    write_nifti(tmp_path / "b.nii.gz", grey(), np.eye(4))
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert gzip.decompress((tmp_path / "a.nii.gz").read_bytes())[348:352] == bytes(4)  # no extension follows
