"""Affines of NIfTI files: which of the two counts, every axis order, shears, and files of other programs."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from synthetic_labels import AXES, oblique, turned

from medkd.errors import InputError
from medkd.imaging.geometry import differences, to_canonical
from medkd.imaging.nifti import read_header, read_nifti, write_mask, write_nifti

DATA = os.environ.get("MEDKD_DATA")
NIBABEL = Path(nib.__file__).parent / "tests" / "data"
GREY = np.random.default_rng(0).integers(-900, 900, (4, 5, 6)).astype(np.int16)


def with_forms(
    path: Path, sform: np.ndarray, qform: np.ndarray | None, codes: tuple[int, int], qfac: int | None = None
) -> Path:
    """A file with an s-form and a q-form of the given codes (s, q)."""
    image = nib.Nifti1Image(GREY, sform)
    image.header.set_xyzt_units("mm")
    image.set_qform(qform, code=codes[1])
    image.set_sform(sform, code=codes[0])
    if qfac:
        image.header["pixdim"][0] = qfac
    nib.save(image, path)
    return path


def moved(affine: np.ndarray, mm: float) -> np.ndarray:
    other = affine.copy()
    other[0, 3] += mm
    return other


@pytest.mark.parametrize("axes", AXES)
def test_every_axis_order_survives_and_agrees_with_nibabel(axes: str, tmp_path: Path) -> None:
    array, affine = turned(GREY, oblique(), axes)
    write_nifti(tmp_path / "a.nii.gz", array, affine)
    scan, image = read_nifti(tmp_path / "a.nii.gz"), nib.load(tmp_path / "a.nii.gz")
    assert "".join(nib.aff2axcodes(scan.affine)) == axes
    assert np.array_equal(scan.affine, affine.astype(np.float32))
    assert np.array_equal(scan.array, np.asanyarray(image.dataobj))
    assert np.abs(image.get_qform() - affine).max() < 1e-4
    assert read_header(tmp_path / "a.nii.gz").notes == ()
    canonical, grid, back = to_canonical(scan.array, scan.affine)
    assert np.array_equal(canonical, turned(GREY, oblique(), "RAS")[0])
    assert np.abs(grid - turned(GREY, oblique(), "RAS")[1]).max() < 1e-4
    assert np.array_equal(back.undo(canonical), array)


@settings(max_examples=60)
@given(
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    st.tuples(*[st.floats(0.05, 12)] * 3),
    st.tuples(*[st.floats(-0.7, 0.7)] * 3),
    st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    st.tuples(*[st.floats(-900, 900)] * 3),
    st.sampled_from([np.uint8, np.int16, np.int64, np.float32, np.float64]),
)
def test_any_orientation_shear_and_spacing_survives_to_the_last_bit(
    tmp_path_factory: pytest.TempPathFactory,
    order: list[int],
    signs: tuple,
    spacing: tuple,
    tilt: tuple,
    shear: tuple,
    origin: tuple,
    dtype: type,
) -> None:
    matrix = np.eye(3)[:, order] * signs
    for axis, angle in enumerate(tilt):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    lean = np.array([[1, shear[0], shear[1]], [0, 1, shear[2]], [0, 0, 1]])
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix @ lean * spacing, origin
    path = tmp_path_factory.mktemp("forms") / "a.nii.gz"
    write_nifti(path, GREY.astype(dtype), affine)
    scan = read_nifti(path)
    assert np.array_equal(scan.affine, affine.astype(np.float32))
    assert np.array_equal(scan.array, GREY.astype(dtype))
    assert scan.array.dtype == dtype
    assert not [note for note in read_header(path).notes if "form" in note]  # what we write never contradicts itself
    write_nifti(path, scan.array, scan.affine)
    assert np.array_equal(read_nifti(path).affine, scan.affine)
    assert differences(scan, read_nifti(path)) == []


def test_the_s_form_counts_and_a_q_form_that_differs_is_noted(tmp_path: Path) -> None:
    sform = np.diag([2.0, 2, 3, 1])
    for codes, mm in (((1, 1), 0.5), ((4, 1), 30.0), ((2, 1), 5.0)):
        path = with_forms(tmp_path / "a.nii", sform, moved(sform, mm), codes)
        assert np.array_equal(read_nifti(path).affine, sform)
        (note,) = read_header(path).notes
        assert f"by {mm / 2:.2g} of a voxel: the s-form counts" in note
        assert nib.load(path).header.get_value_label("qform_code") in note
    assert read_header(with_forms(tmp_path / "b.nii", sform, moved(sform, 0.001), (1, 1))).notes == ()


def test_a_q_form_that_contradicts_the_s_form_for_one_space_is_refused(tmp_path: Path) -> None:
    sform = np.diag([2.0, 2, 3, 1])
    path = with_forms(tmp_path / "a.nii", sform, moved(sform, 1.1), (1, 1))
    for read in (read_nifti, read_header):
        with pytest.raises(InputError, match=r"a\.nii: its s-form .* up to 0\.55 voxels apart; set both"):
            read(path)


@pytest.mark.parametrize("codes", [(1, 1), (2, 1), (4, 1)])
def test_a_mirrored_q_form_is_refused_whatever_the_spaces(tmp_path: Path, codes: tuple[int, int]) -> None:
    """Left and right are swapped between the two: no alignment of scans does that."""
    sform = np.diag([2.0, 2, 3, 1])
    path = with_forms(tmp_path / "a.nii", sform, np.diag([-2.0, 2, 3, 1]), codes)
    with pytest.raises(InputError, match=r"axes RAS\) and its q-form \(.*, axes LAS\).* mirrored"):
        read_nifti(path)


def test_a_q_form_alone_counts_and_survives(tmp_path: Path) -> None:
    path = with_forms(tmp_path / "a.nii", oblique(), oblique(), (0, 1))
    scan = read_nifti(path)
    assert np.abs(scan.affine - oblique()).max() < 1e-4
    assert read_header(path).notes == ()
    write_nifti(tmp_path / "b.nii", scan.array, scan.affine)
    assert np.array_equal(read_nifti(tmp_path / "b.nii").affine, scan.affine)


def test_a_damaged_q_form_beside_an_s_form_is_noted(tmp_path: Path) -> None:
    path = with_forms(tmp_path / "a.nii", np.diag([2.0, 2, 3, 1]), np.diag([2.0, 2, 3, 1]), (1, 1))
    content = bytearray(path.read_bytes())
    content[256:260] = np.float32(3).tobytes()  # quatern_b: not a rotation
    path.write_bytes(bytes(content))
    assert np.array_equal(read_nifti(path).affine, np.diag([2.0, 2, 3, 1]))
    assert read_header(path).notes == ("its q-form is damaged: the s-form was kept",)


def test_a_nifti_2_affine_survives_in_float32(tmp_path: Path) -> None:
    affine = np.diag([1 / 3, 0.7, 3.1, 1])
    affine[:3, 3] = (100 / 3, -1 / 7, 0.1)
    nib.save(nib.Nifti2Image(GREY, affine), tmp_path / "a.nii")
    scan = read_nifti(tmp_path / "a.nii")
    assert np.abs(scan.affine - affine).max() < 4e-6
    write_nifti(tmp_path / "b.nii", scan.array, scan.affine)
    assert np.array_equal(read_nifti(tmp_path / "b.nii").affine, scan.affine)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_values_that_are_not_finite_survive(tmp_path: Path, value: float, dtype: type) -> None:
    array = GREY.astype(dtype)
    array[1, 2, 3] = value
    write_nifti(tmp_path / "a.nii.gz", array, oblique())
    assert np.array_equal(read_nifti(tmp_path / "a.nii.gz").array, array, equal_nan=True)


@pytest.mark.parametrize("slope", [np.nan, 0.0, 1.0])
def test_a_slope_that_means_nothing_leaves_labels_whole(tmp_path: Path, slope: float) -> None:
    path = tmp_path / "a.nii"
    write_nifti(path, GREY, np.eye(4))
    content = bytearray(path.read_bytes())
    content[112:116] = np.float32(slope).tobytes()
    path.write_bytes(bytes(content))
    scan = read_nifti(path)
    assert scan.array.dtype == np.int16
    assert np.array_equal(scan.array, GREY)


def test_scaled_values_are_those_of_nibabel_and_survive_as_floats(tmp_path: Path) -> None:
    image = nib.Nifti1Image(GREY, np.eye(4))
    image.header.set_slope_inter(0.1, -1024)
    nib.save(image, tmp_path / "a.nii")
    scan = read_nifti(tmp_path / "a.nii")
    assert scan.array.dtype == np.float64
    assert np.array_equal(scan.array, nib.load(tmp_path / "a.nii").get_fdata())
    write_nifti(tmp_path / "b.nii", scan.array, scan.affine)
    assert np.array_equal(read_nifti(tmp_path / "b.nii").array, scan.array)


NIBABEL_FILES = {
    "anatomical.nii": ("LAS", np.int16, ()),  # big-endian
    "reoriented_anat_moved.nii": ("RAS", np.float32, ()),
    "resampled_anat_moved.nii": ("LAS", np.float32, ()),
}


@pytest.mark.parametrize("name", NIBABEL_FILES)
def test_files_of_the_nibabel_wheel(name: str, tmp_path: Path) -> None:
    axes, dtype, notes = NIBABEL_FILES[name]
    if not (NIBABEL / name).is_file():
        pytest.skip("this nibabel comes without its test files")
    scan, image = read_nifti(NIBABEL / name), nib.load(NIBABEL / name)
    assert "".join(nib.aff2axcodes(scan.affine)) == axes
    assert scan.array.dtype == dtype
    assert scan.array.dtype.isnative
    assert np.array_equal(scan.array, np.asanyarray(image.dataobj), equal_nan=True)  # one holds NaN
    assert np.abs(scan.affine - image.affine).max() < 1e-5
    assert read_header(NIBABEL / name).notes == notes
    write_nifti(tmp_path / "a.nii.gz", scan.array, scan.affine)
    again = read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(again.array, scan.array, equal_nan=True)
    assert np.array_equal(again.affine, scan.affine)


@pytest.mark.parametrize("name", ["example4d.nii.gz", "functional.nii", "example_nifti2.nii.gz"])
def test_series_of_the_nibabel_wheel_are_refused(name: str) -> None:
    if not (NIBABEL / name).is_file():
        pytest.skip("this nibabel comes without its test files")
    with pytest.raises(InputError, match="split a 4-D series into volumes"):
        read_nifti(NIBABEL / name)


EXPECTED = {  # file -> axes, stored type, whether the spacing is stated or not one: from the files' own documentation
    "t2/t2.nii.gz": ("PSR", np.int16),
    "t2/t2_seg-manual_labeled.nii.gz": ("PSR", np.float64),  # labels stored as float64
    "t2/t2_seg-deepseg_sc-3d.nii.gz": ("PSR", np.uint8),
    "t2s/t2s.nii.gz": ("LAS", np.float32),
    "t2s/t2s_seg-deepseg.nii.gz": ("LAS", np.int64),  # labels stored as int64, no q-form
    "t2s/MNI-Poly-AMU_level_crop.nii.gz": ("LAS", np.float64),
    "t1/t1w.nii.gz": ("RAS", np.int16),
    "mt/mt1_gmseg_goldstandard.nii.gz": ("LAS", np.float32),  # a mask stored as float32
}


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real scans here")
@pytest.mark.parametrize("name", EXPECTED)
def test_real_files_keep_affine_voxels_and_type(name: str, tmp_path: Path) -> None:
    file = Path(str(DATA), "nifti_geometry/sct_testing", name)
    axes, dtype = EXPECTED[name]
    scan, image = read_nifti(file), nib.load(file)
    assert "".join(nib.aff2axcodes(scan.affine)) == axes
    assert scan.array.dtype == dtype
    assert np.array_equal(scan.array, np.asanyarray(image.dataobj))
    assert np.array_equal(scan.affine, image.affine.astype(np.float32))
    assert not [note for note in read_header(file).notes if "form" in note]
    write_nifti(tmp_path / "a.nii.gz", scan.array, scan.affine, scan.spacing is not None)
    again = read_nifti(tmp_path / "a.nii.gz")
    assert again.array.dtype == dtype
    assert np.array_equal(again.array, scan.array)
    assert np.array_equal(again.affine, scan.affine)
    if np.array_equal(scan.array, scan.array.astype(np.int64)) and scan.array.max() < 2**15 and scan.array.min() >= 0:
        write_mask(tmp_path / "m.nii.gz", scan.array.astype(np.int64), scan)  # a label, whatever its type
        mask = read_nifti(tmp_path / "m.nii.gz")
        assert np.array_equal(mask.array, scan.array)
        assert np.array_equal(mask.affine, scan.affine)


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real scans here")
def test_a_real_4d_series_is_refused() -> None:
    with pytest.raises(InputError, match=r"dmri\.nii\.gz has shape \(40, 42, 5, 7\)"):
        read_nifti(Path(str(DATA), "nifti_geometry/sct_testing/dmri/dmri.nii.gz"))
