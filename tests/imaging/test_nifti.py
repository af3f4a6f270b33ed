from __future__ import annotations

import gzip
import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medkd.errors import InputError
from medkd.imaging.geometry import differences
from medkd.imaging.nifti import read_nifti, write_mask, write_nifti

OBLIQUE = np.array([[0.9, -0.5, 0.3, -40], [0.6, 1.1, -0.9, 12.5], [-0.1, 0.4, 7.4, 3.25], [0, 0, 0, 1]])
DATA = os.environ.get("MEDKD_DATA")


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.int64, np.float32, np.float64])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_voxels_type_and_affine_survive(tmp_path: Path, dtype: type, name: str) -> None:
    array = np.random.default_rng(0).integers(0, 200, (5, 6, 4)).astype(dtype)
    write_nifti(tmp_path / name, array, OBLIQUE)
    scan = read_nifti(tmp_path / name)
    assert scan.array.dtype == dtype
    assert np.array_equal(scan.array, array)
    assert np.abs(scan.affine - OBLIQUE).max() < 1e-5  # a NIfTI affine is float32
    write_nifti(tmp_path / "again.nii.gz", scan.array, scan.affine)
    assert np.array_equal(read_nifti(tmp_path / "again.nii.gz").affine, scan.affine)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "again.nii.gz"])


def test_a_sheared_affine_keeps_its_sform_and_claims_no_qform(tmp_path: Path) -> None:
    sheared = np.eye(4)
    sheared[0, 1] = 0.25
    write_nifti(tmp_path / "a.nii.gz", np.zeros((3, 4, 5), np.int16), sheared)
    image = nib.load(tmp_path / "a.nii.gz")
    assert image.header["qform_code"] == 0
    assert np.array_equal(image.affine, sheared)


def test_free_text_of_the_source_does_not_survive(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.ones((3, 3, 3), np.int16), np.eye(4))
    image.header["descrip"] = b"DOE^JOHN 1961"
    image.header["db_name"] = b"DOE^JOHN"
    image.header["aux_file"] = b"DOE^JOHN"
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"DOE^JOHN"))
    nib.save(image, tmp_path / "in.nii.gz")
    scan = read_nifti(tmp_path / "in.nii.gz")
    write_nifti(tmp_path / "out.nii.gz", scan.array, scan.affine)
    assert b"DOE" in gzip.decompress((tmp_path / "in.nii.gz").read_bytes())
    assert b"DOE" not in gzip.decompress((tmp_path / "out.nii.gz").read_bytes())


def test_unknown_spacing_stays_unknown(tmp_path: Path) -> None:
    write_nifti(tmp_path / "a.nii.gz", np.zeros((3, 3, 3), np.int16), np.eye(4), spacing_known=False)
    assert read_nifti(tmp_path / "a.nii.gz").spacing is None
    write_nifti(tmp_path / "b.nii.gz", np.zeros((3, 3, 3), np.int16), np.diag([2.0, 3, 4, 1]))
    assert read_nifti(tmp_path / "b.nii.gz").spacing == (2, 3, 4)


def test_scaled_and_big_endian_files(tmp_path: Path) -> None:
    stored = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = nib.Nifti1Image(stored, np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    nib.save(image, tmp_path / "scaled.nii")
    assert np.allclose(read_nifti(tmp_path / "scaled.nii").array, nib.load(tmp_path / "scaled.nii").get_fdata())
    header = nib.Nifti1Header(endianness=">")
    header.set_data_dtype(np.int16)
    nib.save(nib.Nifti1Image(stored, np.eye(4), header), tmp_path / "big.nii")
    scan = read_nifti(tmp_path / "big.nii")
    assert scan.array.dtype.isnative
    assert np.array_equal(scan.array, stored)


@pytest.mark.parametrize("keep", [0, 40, 200, -150])
def test_a_truncated_file_is_one_sentence(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "a.nii.gz"
    write_nifti(path, np.random.default_rng(0).integers(0, 999, (9, 9, 9)).astype(np.int16), np.eye(4))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"a\.nii\.gz cannot be read, it is truncated or not NIfTI"):
        read_nifti(path)


def test_files_that_are_no_volume(tmp_path: Path) -> None:
    (tmp_path / "a.nii.gz").write_bytes(b"hello")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 5), np.int16), np.eye(4)), tmp_path / "four.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 1), np.int16), np.eye(4)), tmp_path / "one.nii.gz")
    (tmp_path / "a.mha").write_bytes(b"hello")
    for name, words in (("a.nii.gz", "not NIfTI"), ("four.nii.gz", "split a 4-D series"), ("a.mha", "not .nii")):
        with pytest.raises(InputError, match=words):
            read_nifti(tmp_path / name)
    assert read_nifti(tmp_path / "one.nii.gz").shape == (3, 3, 3)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.nii.gz"
    write_nifti(path, np.ones((3, 3, 3), np.int16), np.eye(4))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(nib, "save", fail)
    with pytest.raises(OSError, match="disk full"):
        write_nifti(path, np.zeros((3, 3, 3), np.int16), np.eye(4))
    assert path.read_bytes() == before


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real scans here")
def test_real_scans_of_every_orientation(tmp_path: Path) -> None:
    files = sorted(Path(str(DATA), "nifti_geometry").rglob("*.nii.gz"))
    read = 0
    for file in files:
        try:
            scan = read_nifti(file)
        except InputError:
            assert nib.load(file).ndim != 3
            continue
        write_nifti(tmp_path / "a.nii.gz", scan.array, scan.affine, scan.spacing is not None)
        again = read_nifti(tmp_path / "a.nii.gz")
        assert np.array_equal(again.array, scan.array)
        assert np.array_equal(again.affine, scan.affine)
        assert differences(scan, again) == []
        mask = (scan.array > scan.array.mean()).astype(np.uint8)
        write_mask(tmp_path / "mask.nii.gz", mask, scan)
        assert differences(scan, read_nifti(tmp_path / "mask.nii.gz")) == []
        read += 1
    assert read >= 15
