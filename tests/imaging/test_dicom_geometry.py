"""Slices to volumes: random grids come back exactly, and what is not a grid is refused with the slices named."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import Dataset
from synthetic_dicom import Edit, write_series

from medkd.errors import InputError
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.volumes import Volume, plan_volumes
from medkd.imaging.geometry import flip_lps, voxel_sizes


def rotation(angles: tuple[float, float, float]) -> np.ndarray:
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        i, j = [k for k in range(3) if k != axis]
        turn = np.eye(3)
        turn[i, i], turn[i, j], turn[j, i], turn[j, j] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = turn @ matrix
    return matrix


@st.composite
def grids(draw: st.DrawFn) -> np.ndarray:
    """Any orientation, spacing and origin; the third axis along the DICOM normal."""
    axes = rotation(draw(st.tuples(*[st.floats(-3.2, 3.2)] * 3)))
    affine = np.eye(4)
    affine[:3, :3] = axes * draw(st.tuples(*[st.floats(0.2, 9)] * 3))
    affine[:3, 3] = draw(st.tuples(*[st.floats(-500, 500)] * 3))
    return affine


def ramp(shape: tuple[int, int, int], dtype: type = np.int16) -> np.ndarray:
    return np.arange(np.prod(shape), dtype=dtype).reshape(shape)


def plan(folder: Path) -> Volume:
    (series,) = find_series(folder).series
    (volume,) = plan_volumes(series)
    return volume


def written(folder: Path, array: np.ndarray, affine: np.ndarray, edit: Edit | None = None) -> Volume:
    write_series(folder, array, affine, edit)
    return plan(folder)


@settings(max_examples=60)
@given(grids(), st.permutations(range(5)), st.booleans())
def test_any_grid_comes_back_exactly(affine: np.ndarray, numbers: list[int], shuffled: bool) -> None:
    """Whatever the instance numbers say, slices follow the normal; voxel and affine agree with what was written."""

    def edit(dataset: Dataset, z: int) -> None:
        if shuffled:
            dataset.InstanceNumber = numbers[z] + 1

    with tempfile.TemporaryDirectory() as folder:
        volume = written(Path(folder), ramp((4, 6, 5)), affine, edit)
        scan = read_volume(volume)
    assert volume.problems == ()
    assert np.array_equal(scan.array, ramp((4, 6, 5)))
    assert scan.array.dtype == np.int16
    assert np.allclose(scan.affine, affine, atol=1e-6)
    assert np.allclose(scan.spacing, voxel_sizes(affine), atol=1e-6)


@settings(max_examples=40)
@given(grids(), st.floats(1, 25), st.floats(0, 6.28))
def test_tilt_is_named_refused_and_on_request_straightened(affine: np.ndarray, degrees: float, way: float) -> None:
    """Intensities that are linear in space are reproduced exactly by linear interpolation, wherever a slice reaches."""
    sizes = voxel_sizes(affine)
    lean = affine.copy()
    lean[:3, 2] += np.tan(np.radians(degrees)) * (
        affine[:3, 0] / sizes[0] * np.cos(way) + affine[:3, 1] / sizes[1] * np.sin(way)
    ) * sizes[2]  # fmt: skip
    lean[:3, :2] *= 2 / sizes[:2]  # pixels of 2 mm and slices of 3: the grid cannot grow beyond what is sane
    lean[:3, 2] *= 3 / sizes[2]
    shape = (12, 11, 5)
    slope = np.array([2.0, -3.0, 1.5])
    places = np.einsum("ij,jxyz->xyzi", lean[:3], np.stack([*np.indices(shape), np.ones(shape)]))
    field = (places - lean[:3, 3]) @ slope
    exact = np.round(field * 100).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        volume = written(Path(folder), exact, lean)
        told = re.search(r"leans ([\d.]+) degrees", volume.problems[0])
        assert told
        assert float(told[1]) == pytest.approx(degrees, abs=0.051)
        assert volume.resamplable
        with pytest.raises(InputError, match=r"gantry tilt\).*allow-resample"):
            read_volume(volume)
        scan = read_volume(volume, allow_resample=True)
    assert scan.shape == volume.shape
    axes = scan.affine[:3, :3] / voxel_sizes(scan.affine)
    assert np.allclose(axes.T @ axes, np.eye(3), atol=1e-6)
    assert np.allclose(voxel_sizes(scan.affine), [2, 2, 3])
    there = np.einsum("ij,jxyz->xyzi", scan.affine[:3], np.stack([*np.indices(scan.shape), np.ones(scan.shape)]))
    wanted = (there - lean[:3, 3]) @ slope * 100
    back = np.einsum("ij,xyzj->xyzi", np.linalg.inv(lean), np.concatenate([there, np.ones((*scan.shape, 1))], -1))
    inside = ((back[..., :3] > -1e-6) & (back[..., :3] < np.array(shape) - 1 + 1e-6)).all(-1)
    assert inside.sum() > 50
    assert np.abs(scan.array - wanted)[inside].max() < 1.01
    assert (scan.array[~inside] >= exact.min()).all()


def test_a_lean_that_is_only_rounding_stays_in_the_affine(tmp_path: Path) -> None:
    affine = np.diag([-1.0, -1.0, 2.0, 1.0])
    affine[0, 2] = 0.002  # 0.06 degrees
    volume = written(tmp_path, ramp((4, 4, 5)), affine)
    assert volume.problems == ()
    assert np.allclose(volume.affine, affine, atol=1e-9)


def drop(folder: Path, *slices: int) -> None:
    for path in sorted(folder.iterdir()):
        if int(path.stem.split("_")[1]) in slices:
            path.unlink()


AFFINE = np.array([[-0.8, 0, 0, 10], [0, -0.7, 0, -20], [0, 0, 2.5, 30], [0, 0, 0, 1.0]])


def test_a_missing_slice_is_named_and_on_request_interpolated(tmp_path: Path) -> None:
    array = (ramp((4, 4, 9)) * 2).astype(np.int16)
    write_series(tmp_path, array, AFFINE)
    drop(tmp_path, 4)
    volume = plan(tmp_path)
    assert volume.problems == ("1 slice is missing (slices lie 2.5 mm apart): 5 mm between instance 4 and instance 6",)
    scan = read_volume(volume, allow_resample=True)
    assert np.array_equal(scan.array, array)  # linear in z
    assert np.allclose(scan.affine, AFFINE)


def test_a_wide_gap_is_never_filled(tmp_path: Path) -> None:
    write_series(tmp_path, ramp((4, 4, 9)), AFFINE)
    drop(tmp_path, 3, 4, 5)
    volume = plan(tmp_path)
    assert "3 slices are missing" in volume.problems[0]
    assert not volume.resamplable
    with pytest.raises(InputError, match="3 slices are missing"):
        read_volume(volume, allow_resample=True)


def test_uneven_gaps_are_named_and_resampled_on_request(tmp_path: Path) -> None:
    heights = np.array([0, 2.0, 4.0, 6.7, 8.0])

    def edit(dataset: Dataset, z: int) -> None:
        dataset.ImagePositionPatient[2] = heights[z]

    array = np.repeat(np.round(heights * 10)[None, None], 4, 0).repeat(4, 1).astype(np.int16)
    volume = written(tmp_path, array, np.diag([-1.0, -1, 2, 1]), edit)
    assert (
        "unevenly spaced (1.3 to 2.7 mm, usually 2 mm): 2.7 mm between instance 3 and instance 4" in volume.problems[0]
    )
    scan = read_volume(volume, allow_resample=True)
    assert np.allclose(scan.array[0, 0], [0, 20, 40, 60, 80])


def test_rounded_positions_are_even(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.ImagePositionPatient[2] = round(z * 0.7333, 2)

    assert written(tmp_path, ramp((4, 4, 20)), np.diag([-1.0, -1, 0.7333, 1]), edit).problems == ()


def test_slices_that_slip_sideways_are_named(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.ImagePositionPatient[0] += 0.5 * (z == 2)

    volume = written(tmp_path, ramp((6, 6, 5)), AFFINE, edit)
    assert "shifted sideways against each other: instance 3" in volume.problems[0]
    assert volume.resamplable


def test_duplicates_are_named(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        if z == 3:
            dataset.ImagePositionPatient[2] = 35.0

    volume = written(tmp_path, ramp((4, 4, 5)), AFFINE, edit)
    assert "lie at one position: instance 3 and instance 4" in volume.problems[0]
    assert not volume.resamplable


def test_copies_of_a_file_count_once_and_only_on_request(tmp_path: Path) -> None:
    paths = write_series(tmp_path, ramp((4, 4, 5)), AFFINE)
    (tmp_path / "copy").write_bytes(paths[1].read_bytes())
    volume = plan(tmp_path)
    assert "instance 2 occur twice" in volume.problems[0]
    assert np.array_equal(read_volume(volume, allow_resample=True).array, ramp((4, 4, 5)))


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_slices(tmp_path: Path, count: int) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.SliceThickness = 1

    volume = written(tmp_path, ramp((4, 4, count)), AFFINE, edit)
    assert ("single slice" if count == 1 else "two slices alone, 2.5 mm apart, and the header says 1 mm") in " ".join(
        volume.problems
    )
    assert volume.resamplable == (count == 2)


def test_two_slices_at_the_stated_distance_are_a_volume(tmp_path: Path) -> None:
    assert written(tmp_path, ramp((4, 4, 2)), AFFINE).problems == ()


def test_slices_at_one_place_are_not_a_volume(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.ImagePositionPatient[2] = 0

    assert "all 5 slices lie at one position" in written(tmp_path, ramp((4, 4, 5)), AFFINE, edit).problems[0]


@pytest.mark.parametrize("what", ["orientation", "size", "spacing", "frame of reference"])
def test_mixed_grids_are_named_and_on_request_told_apart(tmp_path: Path, what: str) -> None:
    array, affine = ramp((4, 4, 5)), AFFINE

    def edit(dataset: Dataset, z: int) -> None:
        if z < 2:
            return
        if what == "orientation":
            dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
            dataset.ImagePositionPatient = [2.5 * z, 0, 0]
        elif what == "size":
            dataset.Rows, dataset.Columns = 2, 8
        elif what == "spacing":
            dataset.PixelSpacing = [1, 1]
        else:
            dataset.FrameOfReferenceUID = "1.2.3"

    write_series(tmp_path, array, affine, edit)
    (series,) = find_series(tmp_path).series
    volumes = plan_volumes(series)
    assert [len(volume.frames) for volume in volumes] == [2, 3]
    assert [volume.name for volume in volumes] == ["grid 1", "grid 2"]
    for volume in volumes:
        assert "mixes 2 grids: instance 1, instance 2" in volume.problems[0]
        assert "instance 3, instance 4, instance 5" in volume.problems[0]
        with pytest.raises(InputError, match="mixes 2 grids"):
            read_volume(volume)
    assert np.array_equal(read_volume(volumes[0], allow_resample=True).array, array[:, :, :2])


@pytest.mark.parametrize("tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"])
def test_a_missing_place_is_named(tmp_path: Path, tag: str) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        delattr(dataset, tag)

    volume = written(tmp_path, ramp((4, 4, 5)), AFFINE, edit)
    assert "does not state" in volume.problems[0]
    assert volume.spacing is None
    assert not volume.resamplable


def test_axes_that_are_not_perpendicular_are_refused(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.ImageOrientationPatient = [1, 0, 0, 0.5, 0.866, 0]

    assert "not two perpendicular axes" in written(tmp_path, ramp((4, 4, 5)), AFFINE, edit).problems[0]


def test_one_stray_position_cannot_make_a_giant_grid(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.ImagePositionPatient[0] += 50_000 * (z == 2)

    volume = written(tmp_path, ramp((4, 4, 5)), AFFINE, edit)
    assert not volume.resamplable
    assert "too far apart sideways" in volume.problems[-1]


def test_the_order_is_that_of_positions_not_of_files(tmp_path: Path) -> None:
    """A mean of spacings over a hole, or a sort by instance number, would both pass silently elsewhere."""

    def edit(dataset: Dataset, z: int) -> None:
        dataset.InstanceNumber = 100 - z

    volume = written(tmp_path, ramp((4, 4, 5)), AFFINE, edit)
    assert [file for file, _ in volume.frames] == [4, 3, 2, 1, 0]
    assert np.array_equal(read_volume(volume).array, ramp((4, 4, 5)))
    assert np.allclose(volume.origins, [AFFINE[:3] @ [0, 0, z, 1] for z in range(5)])


def test_lps_and_back() -> None:
    assert np.array_equal(flip_lps(np.array([[1.0, 2, 3]])), [[-1, -2, 3]])
    assert np.array_equal(flip_lps(flip_lps(AFFINE)), AFFINE)
