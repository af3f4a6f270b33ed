"""Several slices in one file: enhanced multi-frame images and Siemens mosaics."""

from __future__ import annotations

import gzip
import struct
import warnings
from pathlib import Path

import nibabel
import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import EnhancedMRImageStorage
from synthetic_dicom import slice_dataset

from medkd.errors import InputError
from medkd.imaging.dicom import mosaic
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.volumes import plan_volumes

ANGLE = 0.3
AFFINE = np.array(
    [
        [-1.5, 0, 0, 20],
        [0, -np.cos(ANGLE), -3 * np.sin(ANGLE), 30],
        [0, -np.sin(ANGLE), 3 * np.cos(ANGLE), -40],
        [0, 0, 0, 1],
    ]
)
SLICES, TIMES = 5, 2
ARRAY = np.arange(4 * 6 * SLICES * TIMES, dtype=np.uint16).reshape(4, 6, SLICES, TIMES)


def enhanced(path: Path, order: list[tuple[int, int]], shared: bool) -> Dataset:
    """ARRAY as one file with frames in the order of (slice, time); orientation and spacing shared, or per frame."""
    per_frame, pixels = [], []
    for z, t in order:
        single = slice_dataset(ARRAY[:, :, z, t], AFFINE, z, "e")
        frame = Dataset()
        frame.PlanePositionSequence = [item("ImagePositionPatient", single)]
        frame.FrameContentSequence = [Dataset()]
        frame.FrameContentSequence[0].TemporalPositionIndex = t + 1
        frame.PixelValueTransformationSequence = [Dataset()]
        frame.PixelValueTransformationSequence[0].RescaleSlope = 0.5 * (z + 1)
        frame.PixelValueTransformationSequence[0].RescaleIntercept = t
        if not shared:
            place(frame, single)
        per_frame.append(frame)
        pixels.append(single.PixelData)
    whole = slice_dataset(ARRAY[:, :, 0, 0], AFFINE, 0, "e")
    for name in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope", "RescaleIntercept"):
        delattr(whole, name)
    whole.SOPClassUID = whole.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    whole.NumberOfFrames, whole.PixelData = len(order), b"".join(pixels)
    whole.PerFrameFunctionalGroupsSequence = per_frame
    whole.SharedFunctionalGroupsSequence = [Dataset()]
    if shared:
        place(whole.SharedFunctionalGroupsSequence[0], slice_dataset(ARRAY[:, :, 0, 0], AFFINE, 0, "e"))
    whole.save_as(path, enforce_file_format=True)
    return whole


def place(group: Dataset, single: Dataset) -> None:
    group.PlaneOrientationSequence = [item("ImageOrientationPatient", single)]
    group.PixelMeasuresSequence = [item("PixelSpacing", single)]


def item(name: str, source: Dataset) -> Dataset:
    dataset = Dataset()
    setattr(dataset, name, getattr(source, name))
    return dataset


def only_series(path: Path) -> Series:
    (series,) = find_series(path).series
    return series


@pytest.mark.parametrize("shared", [True, False])
def test_enhanced_frames_in_any_order(tmp_path: Path, shared: bool) -> None:
    rng = np.random.default_rng(0)
    order = [(z, t) for z in range(SLICES) for t in range(TIMES)]
    order = [order[i] for i in rng.permutation(len(order))]
    enhanced(tmp_path / "a", order, shared)
    volumes = plan_volumes(only_series(tmp_path))
    assert [(volume.time, volume.problems) for volume in volumes] == [(0, ()), (1, ())]
    for t, volume in enumerate(volumes):
        assert [frame for _, frame in volume.frames] == [order.index((z, t)) for z in range(SLICES)]
        scan = read_volume(volume)
        assert np.allclose(scan.affine, AFFINE, atol=1e-9)
        assert np.array_equal(scan.array, ARRAY[..., t] * (0.5 * np.arange(1, SLICES + 1)) + t)


def test_a_number_of_frames_that_is_not_described_is_refused(tmp_path: Path) -> None:
    order = [(z, 0) for z in range(SLICES)]
    whole = enhanced(tmp_path / "a", order, True)
    whole.NumberOfFrames = SLICES + 1
    whole.save_as(tmp_path / "a")
    (volume,) = plan_volumes(only_series(tmp_path))
    assert "says 6 frames and describes 5" in volume.problems[0]
    assert not volume.resamplable


def test_frames_without_places_are_refused(tmp_path: Path) -> None:
    whole = enhanced(tmp_path / "a", [(z, 0) for z in range(SLICES)], True)
    del whole.PerFrameFunctionalGroupsSequence
    whole.save_as(tmp_path / "a")
    (volume,) = plan_volumes(only_series(tmp_path))
    assert "holds 5 frames without a position for each" in volume.problems[0]


@pytest.fixture
def real_mosaic(tmp_path: Path) -> Path:
    """The Siemens diffusion mosaic in nibabel's wheel: 48 slices of 128 x 128."""
    source = Path(nibabel.__file__).parent / "nicom" / "tests" / "data" / "siemens_dwi_1000.dcm.gz"
    if not source.exists():
        pytest.skip("this nibabel comes without its test files")
    path = tmp_path / "mosaic.dcm"
    path.write_bytes(gzip.decompress(source.read_bytes()))
    return path


def test_a_mosaic_lies_where_nibabel_and_spm_place_it(real_mosaic: Path) -> None:
    """Affine as nibabel states it in its tests, checked there against SPM, with its first two axes swapped; nibabel's
    own reader gives the voxels."""
    (volume,) = plan_volumes(only_series(real_mosaic))
    assert volume.problems == ()
    scan = read_volume(volume)
    expected = [
        [-1.796875, 0, 0, 115],
        [0, -1.79684984, -0.01570896, 135.028779],
        [0, -0.0094084375, 2.99995887, -78.710481],
        [0, 0, 0, 1],
    ]
    assert scan.shape == (128, 128, 48)
    assert np.allclose(scan.affine, expected, atol=1e-4)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nibabel calls its reader experimental
        from nibabel.nicom.dicomwrappers import wrapper_from_file

    wrapper = wrapper_from_file(real_mosaic)
    assert np.array_equal(scan.array, wrapper.get_data().swapaxes(0, 1))


@pytest.mark.parametrize("what", ["header", "normal", "count", "position"])
def test_a_mosaic_that_does_not_say_how_it_lies_is_refused(real_mosaic: Path, what: str) -> None:
    data = real_mosaic.read_bytes()
    if what == "header":
        data = data.replace(b"SV10", b"XX10")
    elif what == "normal":
        data = data.replace(b"SliceNormalVector", b"SliceNormalVectxx")
    elif what == "position":
        at = data.rindex(b"\x20\x00\x32\x00")
        data = data[:at] + b"\x20\x00\x33\x00" + data[at + 4 :]
    else:
        csa = data.index(b"NumberOfImagesInMosaic")
        at = data.index(b"48", csa)
        data = data[:at] + b"99" + data[at + 2 :]
    real_mosaic.write_bytes(data)
    (volume,) = plan_volumes(only_series(real_mosaic))
    assert "Siemens mosaic" in volume.problems[0]
    with pytest.raises(InputError, match="Siemens mosaic"):
        read_volume(volume, allow_resample=True)


def csa(fields: dict[str, list[str]]) -> bytes:
    data = b"SV10" + b"\4\3\2\1" + struct.pack("<II", len(fields), 77)
    for name, values in fields.items():
        data += struct.pack("<64si4siii", name.encode(), len(values), b"FD", 0, len(values), 77)
        for value in values:
            text = value.encode() + b"\0"
            data += struct.pack("<4i", len(text), len(text), 77, len(text)) + text + bytes(-len(text) % 4)
    return data


@pytest.mark.parametrize("way", [1, -1])
def test_a_mosaic_by_hand(tmp_path: Path, way: int) -> None:
    """Seven tiles of 4 x 6 in a picture of 3 x 3; slices may run against the normal of the picture."""
    slices = 7
    array = np.arange(4 * 6 * slices, dtype=np.uint16).reshape(4, 6, slices)
    axes = AFFINE.copy()
    axes[:3, 2] *= way
    tiles = np.zeros((9, 6, 4), np.uint16)
    tiles[:slices] = array.transpose(2, 1, 0)
    picture = tiles.reshape(3, 3, 6, 4).swapaxes(1, 2).reshape(18, 12)
    dataset = slice_dataset(picture.T, AFFINE, 0, "m")
    # Siemens states the position of a slice as large as the picture and with the same centre
    centre_shift = AFFINE[:3, 0] * (12 - 4) / 2 + AFFINE[:3, 1] * (18 - 6) / 2
    dataset.ImagePositionPatient = [float(v) for v in (AFFINE[:3, 3] - centre_shift) * [-1, -1, 1]]
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "M", "MOSAIC"]
    dataset.SpacingBetweenSlices = 3
    normal = np.cross(dataset.ImageOrientationPatient[:3], dataset.ImageOrientationPatient[3:]) * way
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    fields = {"NumberOfImagesInMosaic": [str(slices)], "SliceNormalVector": [f"{v:.8f}" for v in normal]}
    block.add_new(0x10, "OB", csa(fields))
    dataset.save_as(tmp_path / "m.dcm", enforce_file_format=True)
    (volume,) = plan_volumes(only_series(tmp_path))
    assert volume.problems == ()
    scan = read_volume(volume)
    for z in (0, 3, 6):
        place = axes @ [1, 2, z, 1]  # where this voxel of tile z lies in the patient
        found = np.linalg.inv(scan.affine) @ place
        assert np.allclose(found, np.round(found), atol=1e-5)
        assert scan.array[tuple(np.round(found[:3]).astype(int))] == array[1, 2, z]


def test_a_damaged_private_header_ends_where_it_is_damaged() -> None:
    whole = csa({"A": ["1"], "SliceNormalVector": ["0", "0", "1"]})
    assert mosaic._csa_fields(whole)["SliceNormalVector"] == ["0", "0", "1"]
    for cut in range(0, len(whole), 7):
        mosaic._csa_fields(whole[:cut])
    assert mosaic._csa_fields(whole[:130]) == {"A": ["1"]}
    negative = whole.replace(struct.pack("<4i", 2, 2, 77, 2), struct.pack("<4i", 2, -2, 77, 2))
    assert mosaic._csa_fields(negative) == {}
