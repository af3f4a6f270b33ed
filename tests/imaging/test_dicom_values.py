"""Stored values to modality values: signs, bits, slopes and intercepts of each slice, inversion, colour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from synthetic_dicom import write_series

from medkd.errors import InputError
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.volumes import Volume, plan_volumes

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])


def written(folder: Path, array: np.ndarray, edit: Callable[[Dataset, int], None] | None = None) -> Volume:
    write_series(folder, array, AFFINE, edit)
    (series,) = find_series(folder).series
    (volume,) = plan_volumes(series)
    return volume


def scaled(slope: float, intercept: float) -> Callable[[Dataset, int], None]:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.RescaleSlope, dataset.RescaleIntercept = slope, intercept

    return edit


@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16, np.uint32, np.int32])
def test_every_integer_type_is_kept(tmp_path: Path, dtype: type) -> None:
    info = np.iinfo(dtype)
    array = np.linspace(info.min, info.max, 60).astype(dtype).reshape(3, 4, 5)
    scan = read_volume(written(tmp_path, array))
    assert scan.array.dtype == dtype
    assert np.array_equal(scan.array, array)


@pytest.mark.parametrize(
    ("low", "high", "intercept", "dtype"),
    [
        (0, 4095, -1024, np.int16),  # the usual CT
        (0, 4095, 100, np.uint16),
        (0, 65535, -1024, np.int32),
        (40000, 65535, -40000, np.uint16),
        (0, 10, 70000, np.int32),
    ],
)
def test_whole_intercepts_give_the_smallest_type_that_holds_them(
    tmp_path: Path, low: int, high: int, intercept: int, dtype: type
) -> None:
    array = np.linspace(low, high, 60).astype(np.uint16).reshape(3, 4, 5)
    scan = read_volume(written(tmp_path, array, scaled(1, intercept)))
    assert scan.array.dtype == dtype
    assert np.array_equal(scan.array.astype(np.int64), array.astype(np.int64) + intercept)


def test_slopes_and_intercepts_of_each_slice(tmp_path: Path) -> None:
    """As PET has them; float64 because float32 would round."""
    array = np.arange(60, dtype=np.uint16).reshape(3, 4, 5) * 1000
    slopes = [0.1234567, 1.0, 2.5, 0.333333, 7.25]

    def edit(dataset: Dataset, z: int) -> None:
        dataset.Modality = "PT"
        dataset.RescaleSlope, dataset.RescaleIntercept = slopes[z], -z

    scan = read_volume(written(tmp_path, array, edit))
    assert scan.array.dtype == np.float64
    assert np.array_equal(scan.array, array * np.array(slopes) - np.arange(5))


def test_float32_where_that_is_exact(tmp_path: Path) -> None:
    array = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)
    scan = read_volume(written(tmp_path, array, scaled(0.5, 0.25)))
    assert scan.array.dtype == np.float32
    assert np.array_equal(scan.array, array * 0.5 + 0.25)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("high", [11, 13])
def test_only_stored_bits_count(tmp_path: Path, dtype: type, high: int) -> None:
    """12 of 16 bits; the others hold an old overlay; with high bit 13, the lowest two are unused as well."""
    wanted = np.linspace(-2048 if dtype == np.int16 else 0, 2047, 60).astype(dtype).reshape(3, 4, 5)
    dirty = ((wanted.astype(np.uint16) & 0x0FFF) << (high - 11)) | 0x4000 << (1 if high == 13 else 0)

    def edit(dataset: Dataset, z: int) -> None:
        dataset.BitsStored, dataset.HighBit = 12, high
        dataset.PixelRepresentation = int(dtype == np.int16)

    scan = read_volume(written(tmp_path, dirty.astype(np.uint16), edit))
    assert scan.array.dtype == dtype
    assert np.array_equal(scan.array, wanted)


@pytest.mark.parametrize(("modality", "inverted"), [("MR", True), ("DX", True), ("CT", False), ("PT", False)])
def test_monochrome1_is_inverted_unless_values_are_measurements(tmp_path: Path, modality: str, inverted: bool) -> None:
    array = np.arange(60, dtype=np.uint16).reshape(3, 4, 5)

    def edit(dataset: Dataset, z: int) -> None:
        dataset.Modality, dataset.PhotometricInterpretation = modality, "MONOCHROME1"
        dataset.BitsStored, dataset.HighBit = 12, 11

    volume = written(tmp_path, array, edit)
    assert ("inverted" if inverted else "kept") in volume.notes[0]
    assert np.array_equal(read_volume(volume).array, 4095 - array if inverted else array)


def test_signed_monochrome1_keeps_its_range(tmp_path: Path) -> None:
    array = np.linspace(-32768, 32767, 60).astype(np.int16).reshape(3, 4, 5)

    def edit(dataset: Dataset, z: int) -> None:
        dataset.Modality, dataset.PhotometricInterpretation = "MR", "MONOCHROME1"

    assert np.array_equal(read_volume(written(tmp_path, array, edit)).array, -1 - array.astype(np.int32))


def test_padding_is_noted(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.add_new(0x00280120, "SS", -2000)

    assert "padding value" in written(tmp_path, np.zeros((3, 4, 5), np.int16), edit).notes[0]


def colour(dataset: Dataset, z: int) -> None:
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PlanarConfiguration = 3, "RGB", 0


def palette(dataset: Dataset, z: int) -> None:
    dataset.PhotometricInterpretation = "PALETTE COLOR"


def table(dataset: Dataset, z: int) -> None:
    dataset.ModalityLUTSequence = [Dataset()]


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (colour, r"colour image \(RGB\).*instance 1"),
        (palette, r"colour image \(PALETTE COLOR\)"),
        (scaled(0, 0), "slope is 0"),
        (table, "modality lookup table"),
    ],
)
def test_what_cannot_be_right_is_refused_before_pixels_are_read(
    tmp_path: Path, edit: Callable[[Dataset, int], None], words: str
) -> None:
    volume = written(tmp_path, np.zeros((3, 4, 5), np.uint8), edit)
    assert not volume.resamplable
    with pytest.raises(InputError, match=words):
        read_volume(volume, allow_resample=True)


def test_a_slope_that_is_no_number_is_not_taken_for_1(tmp_path: Path) -> None:
    paths = write_series(tmp_path, np.zeros((3, 4, 5), np.uint8), AFFINE)
    paths[2].write_bytes(
        paths[2].read_bytes().replace(b"\x28\x00\x53\x10DS\x04\x001.0 ", b"\x28\x00\x53\x10DS\x04\x001,0 ")
    )
    (series,) = find_series(tmp_path).series
    (volume,) = plan_volumes(series)
    assert volume.problems == ("its rescale slope or intercept is not a number ('1,0'): instance 3",)


def test_truncated_pixels_name_the_file(tmp_path: Path) -> None:
    paths = write_series(tmp_path, np.zeros((30, 40, 5), np.uint16), AFFINE)
    paths[2].write_bytes(paths[2].read_bytes()[:-100])
    (series,) = find_series(tmp_path).series
    with pytest.raises(InputError, match=f"{paths[2].name}.*truncated"):
        read_volume(plan_volumes(series)[0])


def test_a_promise_of_many_pixels_allocates_nothing(tmp_path: Path) -> None:
    """65,535 x 65,535 pixels of a file of 1 kB."""

    def edit(dataset: Dataset, z: int) -> None:
        dataset.Rows = dataset.Columns = 65535

    volume = written(tmp_path, np.zeros((3, 4, 3), np.uint16), edit)
    with pytest.raises(InputError, match="promises 8191 MiB"):
        read_volume(volume)
