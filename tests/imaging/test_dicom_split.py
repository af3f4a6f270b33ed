"""4-D series and others with several slices at a position: split where that is certain, refused where it is not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from pydicom import Dataset
from pydicom.uid import generate_uid
from synthetic_dicom import write_series

from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.volumes import Volume, plan_volumes

AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
SLICES, TIMES = 4, 3
ARRAY = np.arange(2 * 3 * SLICES * TIMES, dtype=np.int16).reshape(2, 3, SLICES, TIMES)


def series_4d(
    folder: Path, mark: Callable[[Dataset, int, int], None], skip: tuple[int, int] | None = None
) -> tuple[Volume, ...]:
    """ARRAY as one series; mark(dataset, z, t) writes what tells times apart."""
    for t in range(TIMES):

        def edit(dataset: Dataset, z: int, t: int = t) -> None:
            dataset.SeriesInstanceUID = "1.2.3"
            dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid()
            mark(dataset, z, t)

        paths = write_series(folder / str(t), ARRAY[..., t], AFFINE, edit)
        if skip and skip[1] == t:
            paths[skip[0]].unlink()
    (series,) = find_series(folder).series
    return plan_volumes(series)


def position_major(dataset: Dataset, z: int, t: int) -> None:
    dataset.InstanceNumber = z * TIMES + t + 1


def time_major(dataset: Dataset, z: int, t: int) -> None:
    dataset.InstanceNumber = t * SLICES + z + 1


def temporal(dataset: Dataset, z: int, t: int) -> None:
    dataset.InstanceNumber = 1
    dataset.TemporalPositionIdentifier = t + 1


def trigger(dataset: Dataset, z: int, t: int) -> None:
    """As cardiac cine: the instance numbers of no use, acquisition times different in every slice."""
    dataset.InstanceNumber = 7 * z + (TIMES - t)
    dataset.TriggerTime, dataset.AcquisitionTime = t * 33.5, f"12{z:02d}{t:02d}.0"


@pytest.mark.parametrize("mark", [position_major, time_major, temporal, trigger])
def test_times(tmp_path: Path, mark: Callable[[Dataset, int, int], None]) -> None:
    volumes = series_4d(tmp_path, mark)
    assert [(volume.time, volume.name, volume.problems) for volume in volumes] == [
        (t, f"time {t + 1}", ()) for t in range(TIMES)
    ]
    for t, volume in enumerate(volumes):
        assert np.array_equal(read_volume(volume).array, ARRAY[..., t])
        assert np.allclose(volume.affine, AFFINE)
    assert bool(volumes[0].notes) == (mark in (position_major, time_major))  # a split by number alone says so


def test_echoes_are_not_times(tmp_path: Path) -> None:
    def mark(dataset: Dataset, z: int, t: int) -> None:
        dataset.EchoNumbers = 3 - t
        dataset.InstanceNumber = z * TIMES + t + 1

    volumes = series_4d(tmp_path, mark)
    assert [(volume.time, volume.name) for volume in volumes] == [(None, f"echo {n}") for n in (1, 2, 3)]
    assert np.array_equal(read_volume(volumes[0]).array, ARRAY[..., 2])


def test_two_values_together(tmp_path: Path) -> None:
    """Magnitude and phase of two echoes less one: neither value alone tells them apart."""

    def mark(dataset: Dataset, z: int, t: int) -> None:
        dataset.InstanceNumber = z * TIMES + t + 1
        dataset.EchoNumbers = (1, 1, 2)[t]
        dataset.ImageType = ["ORIGINAL", "PRIMARY", ("M", "P", "M")[t]]

    volumes = series_4d(tmp_path, mark)
    assert sorted(volume.name for volume in volumes) == [
        "echo 1, type ORIGINAL\\PRIMARY\\M", "echo 1, type ORIGINAL\\PRIMARY\\P", "echo 2, type ORIGINAL\\PRIMARY\\M",
    ]  # fmt: skip


def test_diffusion_directions(tmp_path: Path) -> None:
    def mark(dataset: Dataset, z: int, t: int) -> None:
        dataset.InstanceNumber = z * TIMES + t + 1
        dataset.DiffusionBValue = float((0, 1000, 1000)[t])
        if t:
            dataset.DiffusionGradientOrientation = [[1.0, 0, 0], [0, 1.0, 0]][t - 1]

    volumes = series_4d(tmp_path, mark)
    assert len(volumes) == 3
    assert np.array_equal(read_volume(volumes[0]).array, ARRAY[..., 0])
    assert all(volume.problems == () for volume in volumes)


def test_an_aborted_last_volume_is_refused_alone(tmp_path: Path) -> None:
    volumes = series_4d(tmp_path, temporal, skip=(3, 2))
    assert [volume.problems for volume in volumes] == [
        (), (), ("it lacks 1 of the 4 slice positions of the series",),
    ]  # fmt: skip
    assert not volumes[2].resamplable


def test_what_cannot_be_told_apart_is_refused(tmp_path: Path) -> None:
    """One slice too few and no header value: which of the others belong together is a guess."""
    (volume,) = series_4d(tmp_path, position_major, skip=(1, 1))
    assert "several slices lie at one position" in volume.problems[0]
    assert not volume.resamplable


def test_equal_instance_numbers_tell_nothing(tmp_path: Path) -> None:
    def mark(dataset: Dataset, z: int, t: int) -> None:
        dataset.InstanceNumber = 1

    (volume,) = series_4d(tmp_path, mark)
    assert "several slices lie at one position" in volume.problems[0]
