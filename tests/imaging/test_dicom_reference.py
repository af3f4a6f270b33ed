"""Real scanners' files against what others made of them: the data of $MEDKD_DATA/dicom."""

from __future__ import annotations

import os
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from pydicom import dcmread

from medkd.errors import InputError
from medkd.imaging.dicom.decode import _by_simpleitk
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.pixels import stored_pixels
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.volumes import plan_volumes
from medkd.imaging.geometry import to_canonical

DATA = Path(os.environ.get("MEDKD_DATA", "")) / "dicom"
pytestmark = pytest.mark.skipif(not os.environ.get("MEDKD_DATA") or not DATA.is_dir(), reason="needs $MEDKD_DATA/dicom")

PLAIN = [
    "ge/anatomical/001", "generic/anatomical/001", "generic/anatomical/002_non_isotropic", "generic/compressed/001",
    "generic/compressed_j2k/001", "generic/compressed_jpeg/001", "generic/compressed_jpegls/001",
    "generic/compressed_rle/001", "hitachi/anatomical/001", "philips/anatomical/001", "siemens/anatomical/001",
    "failing/slicecount/001",  # right on request: two slices whose distance no header states
]  # fmt: skip
FOUR_D = ["ge/dti/001", "ge/dti/002", "ge/fmri/001", "philips/dti/001", "philips/fmri/001"]
ENHANCED = ["hyperfine/anatomical/001", "siemens_multiframe/anatomical/001", "philips_enhanced/anatomical/001",
            "philips_enhanced/fmri/001"]  # fmt: skip


def only_series(path: Path) -> Series:
    (series,) = find_series(path).series
    return series


@pytest.mark.parametrize("name", [*PLAIN, *FOUR_D, *ENHANCED])
def test_equals_the_reference(name: str) -> None:
    """Voxels exactly, affine within 1e-5, in canonical orientation; the volumes of a 4-D series are those of the
    reference, in its order. Float slopes (Philips enhanced) are applied in
    float32 in the reference and in float64 here: equal to the last two bits of float32."""
    image = nib.load(DATA / "dicom2nifti" / f"{name}_ground_truth.nii.gz")
    reference = np.asarray(image.dataobj)
    reference = reference[..., None] if reference.ndim == 3 else reference
    volumes = plan_volumes(only_series(DATA / "dicom2nifti" / name))
    assert len(volumes) == reference.shape[3]
    matches = []
    for volume in volumes:
        assert not volume.problems or "two slices alone" in volume.problems[0]
        scan = read_volume(volume, allow_resample=True)
        array, affine, _ = to_canonical(scan.array, scan.affine)
        equal = []
        for t in range(reference.shape[3]):
            wanted, wanted_affine, _ = to_canonical(reference[..., t], image.affine)
            assert np.abs(affine - wanted_affine).max() < 1e-5
            if array.shape == wanted.shape and (np.abs(array - wanted) <= rounding(wanted)).all():
                equal.append(t)
        (match,) = equal
        matches.append(match)
    assert matches == list(range(len(volumes)))


def test_enhanced_diffusion_by_hand() -> None:
    """Here the reference is wrong (its b = 0 volume holds the last direction, the other three are zero); its affine and
    its gradient table are right. Frames lie slice by slice, b = 0 and three directions each."""
    folder = DATA / "dicom2nifti" / "philips_enhanced" / "dti"
    image = nib.load(folder / "001_ground_truth.nii.gz")
    stored = dcmread(next((folder / "001").iterdir()))
    volumes = plan_volumes(only_series(folder / "001"))
    assert len(volumes) == 4
    for volume, first in zip(volumes, (0, 3, 2, 1), strict=True):  # sorted by b value and direction
        scan = read_volume(volume)
        affine = to_canonical(scan.array, scan.affine)[1]
        assert np.abs(affine - to_canonical(scan.array, image.affine)[1]).max() < 1e-5
        for z in range(8):
            group = stored.PerFrameFunctionalGroupsSequence[4 * z + first].PixelValueTransformationSequence[0]
            wanted = stored.pixel_array[4 * z + first] * float(group.RescaleSlope) + float(group.RescaleIntercept)
            assert np.array_equal(scan.array[:, :, z].T, wanted)


def rounding(wanted: np.ndarray) -> np.ndarray | int:
    """How far values may lie from a reference: its slope, its product and its sum were each rounded."""
    return 2 * np.spacing(np.abs(wanted)) if wanted.dtype == np.float32 else 0


@pytest.mark.parametrize("name", [*PLAIN[:-1], *ENHANCED])
def test_no_complaint_about_good_series(name: str) -> None:
    for volume in plan_volumes(only_series(DATA / "dicom2nifti" / name)):
        assert volume.problems == ()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("gantrytilting/001", "leans 14.0 degrees from the slice normal"),
        ("notavolume/001", "all 4 slices lie at one position (instance 23, instance 24, instance 25, instance 26)"),
        ("slicecount/001", "two slices alone, 1 mm apart, and the header does not state it"),
        ("sliceincrement/001", "1 slice is missing (slices lie 5 mm apart): 10 mm between instance 9 and instance 10"),
        ("sliceincrement/002", "1 slice is missing"),
        ("sliceincrement/002", "leans 15.5 degrees"),
        ("sliceorientation/001", "mixes 2 grids: instance 1, instance 2 (288 x 288, 0.32 x 0.32 mm"),
    ],
)
def test_failing_cases_are_refused_with_the_right_reason(name: str, words: str) -> None:
    for volume in plan_volumes(only_series(DATA / "dicom2nifti" / "failing" / name)):
        with pytest.raises(InputError) as caught:
            read_volume(volume)
        assert words in str(caught.value)


def test_one_slice_and_colour_are_refused() -> None:
    (one,) = plan_volumes(only_series(DATA / "dicom2nifti" / "ge" / "anatomical" / "001_single_slice"))
    with pytest.raises(InputError, match="single slice"):
        read_volume(one, allow_resample=True)
    (rgb,) = plan_volumes(only_series(DATA / "dicom2nifti" / "generic" / "rgb"))
    with pytest.raises(InputError, match=r"colour image \(RGB\).*instance 39"):
        read_volume(rgb, allow_resample=True)


def test_tilt_on_request_lies_on_the_normal() -> None:
    """Against the plain formula: the grid is orthogonal, and its first and last planes hold the untouched slices."""
    (volume,) = plan_volumes(only_series(DATA / "dicom2nifti" / "failing" / "gantrytilting" / "001"))
    scan = read_volume(volume, allow_resample=True)
    axes = scan.affine[:3, :3] / np.linalg.norm(scan.affine[:3, :3], axis=0)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-5)
    header = volume.series.headers[0]
    assert np.isclose(scan.affine[2, 2], 5 * np.cross([1, 0, 0], header.ImageOrientationPatient[3:])[2] ** 2, atol=1e-4)
    first = stored_pixels(volume.series.files[0], header)[0].T.astype(float) - 1024
    inside = np.linalg.inv(scan.affine) @ [*volume.origins[0], 1]
    x, y = np.round(inside[:2]).astype(int)
    assert np.allclose(inside[:3], np.round(inside[:3]), atol=1e-4)
    assert np.array_equal(scan.array[x : x + 512, y : y + 512, 0], first)


@pytest.mark.parametrize("way", ["as installed", "SimpleITK alone"])
@pytest.mark.parametrize(("kind", "most"), [("RLE", 0), ("J2KR", 0), ("JLSL", 0), ("JPLL", 0), ("JLSN", 4)])
def test_wg04_against_the_uncompressed_pictures(kind: str, most: int, way: str) -> None:
    """Bit-exact where the syntax is lossless; near-lossless JPEG-LS within its 4."""
    files = sorted((DATA / "wg04" / kind).iterdir())
    assert len(files) >= 6
    for file in files:
        reference = next((DATA / "wg04" / "REF").glob(file.name.split("_")[0] + "_UNC*"))
        wanted, found = pixels(reference), pixels(file, way)
        assert found.dtype == wanted.dtype
        assert np.abs(found.astype(int) - wanted.astype(int)).max() <= most, file.name


@pytest.mark.parametrize(("kind", "share"), [("J2KI", 0.02), ("JPLY", 0.01)])
def test_wg04_lossy(kind: str, share: float) -> None:
    """Irreversible JPEG 2000 and 12-bit JPEG: on average within one or two hundredths of the picture's range."""
    for file in sorted((DATA / "wg04" / kind).iterdir()):
        found = pixels(file)
        if references := list((DATA / "wg04" / "REF").glob(file.name.split("_")[0] + "_UNC*")):
            wanted = pixels(references[0]).astype(int)
            error = float(np.abs(found.astype(int) - wanted).mean())
            assert error < share * np.ptp(wanted), file.name
        else:
            assert found.shape == (1, 4664, 3064), file.name


def pixels(file: Path, way: str = "as installed") -> np.ndarray:
    if way == "as installed":
        series = only_series(file)
        return stored_pixels(file, series.headers[0], series.pixels_at[0])
    dataset = dcmread(file)
    return _by_simpleitk(dataset, dataset.file_meta.TransferSyntaxUID, [0])


def test_hippovolume() -> None:
    """Position (0, 0, z) in three cropped studies, and four full oblique series that share a study."""
    counts = []
    for study in ("Study1/13_HCropVolume", "Study2/14_HCropVolume", "Study3/11_HCropVolume"):
        (volume,) = plan_volumes(only_series(DATA / "hippovolume" / study))
        assert volume.problems == ()
        assert np.array_equal(volume.affine[:3, :3], np.diag([-1, -1, 1]))
        assert np.array_equal(volume.affine[:2, 3], [0, 0])
        counts.append(volume.shape[2])
    assert sorted(counts) == [32, 35, 40]
    full = [
        volume
        for folder in (DATA / "hippovolume" / "Study3").glob("*-*")
        for volume in plan_volumes(only_series(folder))
    ]
    assert len(full) == 4
    for volume in full:
        assert volume.problems == ()
        assert volume.shape == (280, 320, 22)
        assert volume.spacing == pytest.approx((0.6875, 0.6875, 6.5), abs=1e-5)  # slices of 5 mm, 1.5 mm between them
        assert any("thickness" in note for note in volume.notes) == (
            "SpacingBetweenSlices" not in volume.series.headers[0]
        )
