"""Archives as they come: nested, without extensions, mixed, zipped, listed in a DICOMDIR, and partly broken."""

from __future__ import annotations

import logging
import os
import pickle
import struct
import threading
import time
import warnings
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pydicom.data
import pytest
from pydicom import Dataset, dcmread
from pydicom.uid import DeflatedExplicitVRLittleEndian, SecondaryCaptureImageStorage
from synthetic_dicom import write_series

from medkd.errors import InputError
from medkd.imaging.dicom import archive, find, header
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.quiet import quiet
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.volumes import plan_volumes

ARRAY = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
AFFINE = np.diag([-1.0, -1.0, 2.0, 1.0])
PYDICOM = Path(pydicom.data.__file__).parent / "test_files"


@pytest.fixture
def export(tmp_path: Path) -> Path:
    """Two series in nested folders, files without extension, and what else lies in an archive export."""

    def edit(dataset: Dataset, z: int) -> None:
        dataset.private_block(0x0029, "MAKER", create=True).add_new(1, "LO", "private")

    for name in ("one", "two"):
        for number, path in enumerate(write_series(tmp_path / "DICOM" / name, ARRAY, AFFINE, edit, seed=name)):
            path.rename(path.parent / f"IM{number}")
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "DICOM" / "empty").touch()
    return tmp_path


def test_a_folder(export: Path) -> None:
    found = find_series(export)
    assert [series.description for series in found.series] == ["synthetic one", "synthetic two"]
    first = found.series[0]
    assert (first.modality, first.number, first.kind, first.patient) == ("CT", 1, "image", "SYNTHETIC-1")
    assert first.syntaxes == ("Explicit VR Little Endian",)
    assert [path.name for path in first.files] == [f"IM{z}" for z in range(6)]
    assert "PixelData" not in first.headers[0]
    assert not any(tag.is_private for tag in first.headers[0].keys())  # noqa: SIM118
    assert sorted(path.name for path in found.ignored) == ["empty", "readme.txt"]
    assert found.refused == ()


def test_the_patient_never_shows_in_a_log(export: Path) -> None:
    (series, *_) = find_series(export).series
    assert "SYNTHETIC" not in repr(series)
    assert "SYNTHETIC" not in repr(plan_volumes(series))


def test_what_pydicom_warns_of_is_not_printed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its warnings quote values, which may be a name; and the state of warnings is as it was before."""

    def edit(dataset: Dataset, z: int) -> None:
        dataset.SpecificCharacterSet = "ISO_IR 999"

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        write_series(tmp_path, ARRAY, AFFINE, edit)
    caplog.clear()
    before = list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        for _ in range(5):
            find_series(tmp_path)
        assert warnings.filters[0][0] == "always"
    assert warnings.filters == before
    assert seen == []
    assert caplog.records == []


def test_quiet_ends_when_the_last_thread_leaves() -> None:
    inside, leave = threading.Event(), threading.Event()

    def work() -> None:
        with quiet:
            inside.set()
            leave.wait(5)

    before = list(warnings.filters)
    with quiet:
        thread = threading.Thread(target=work)
        thread.start()
        inside.wait(5)
    assert warnings.filters[0][0] == "ignore"  # the other is still inside
    leave.set()
    thread.join()
    assert warnings.filters == before
    assert not logging.getLogger("pydicom").disabled


def test_a_plan_can_be_sent_to_another_process(export: Path) -> None:
    (series, *_) = find_series(export).series
    (volume,) = pickle.loads(pickle.dumps(plan_volumes(series)))
    assert np.array_equal(read_volume(volume).array, ARRAY)


def test_a_broken_file_costs_one_line(export: Path) -> None:
    path = export / "DICOM" / "one" / "IM3"
    path.write_bytes(path.read_bytes()[:200])
    (export / "DICOM" / "gone").symlink_to(export / "nowhere")
    found = find_series(export)
    assert [len(series.files) for series in found.series] == [5, 6]
    assert {refused.file.name for refused in found.refused} >= {"gone"}
    assert all("\n" not in refused.reason for refused in found.refused)


def test_a_file_and_what_is_not_there(export: Path) -> None:
    (series,) = find_series(export / "DICOM" / "one" / "IM0").series
    assert len(series.files) == 1
    assert find_series(export / "readme.txt").ignored == (export / "readme.txt",)
    with pytest.raises(InputError, match="there is no file or folder"):
        find_series(export / "absent")


@pytest.mark.timeout(20)
def test_pipes_and_circles_do_not_hang(export: Path) -> None:
    os.mkfifo(export / "pipe")
    (export / "circle").symlink_to(export)
    found = find_series(export)
    assert len(found.series) == 2
    assert export / "pipe" in found.ignored


def test_two_patients_never_make_one_series(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.PatientID = f"P{z // 3}"

    write_series(tmp_path, ARRAY, AFFINE, edit)
    assert [series.patient for series in find_series(tmp_path).series] == ["P0", "P1"]


def test_without_a_series_uid_nothing_can_be_grouped(tmp_path: Path) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        del dataset.SeriesInstanceUID

    write_series(tmp_path, ARRAY, AFFINE, edit)
    found = find_series(tmp_path)
    assert len(found.refused) == 6
    assert "no series UID" in found.refused[0].reason


def test_files_without_a_preamble(tmp_path: Path) -> None:
    for path in write_series(tmp_path, ARRAY, AFFINE):
        data = path.read_bytes()
        path.write_bytes(data[data.index(b"\x08\x00\x16\x00UI") :])
    (series,) = find_series(tmp_path).series
    assert series.syntaxes == ("not stated",)
    assert np.array_equal(read_volume(plan_volumes(series)[0]).array, ARRAY)


@pytest.mark.parametrize("change", ["YES", "NO", "capture", "none"])
def test_burned_in(tmp_path: Path, change: str) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        if change in ("YES", "NO"):
            dataset.BurnedInAnnotation = change
        if change in ("capture", "NO"):
            dataset.SOPClassUID = SecondaryCaptureImageStorage
            dataset.file_meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage

    write_series(tmp_path, ARRAY, AFFINE, edit)
    (series,) = find_series(tmp_path).series
    assert bool(series.burned_in) == (change in ("YES", "capture"))


def zipped(folder: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(folder.rglob("*")):
            out.write(file, file.relative_to(folder))
    return path


def test_a_zip(export: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = zipped(export, tmp_path_factory.mktemp("zip") / "export.zip")
    with find_series(path) as found:
        assert [len(series.files) for series in found.series] == [6, 6]
        assert sorted(found.ignored) == [path / "DICOM" / "empty", path / "readme.txt"]
        assert np.array_equal(read_volume(plan_volumes(found.series[0])[0]).array, ARRAY)
        assert found.series[0].files[0].exists()
    assert not found.series[0].files[0].exists()


@pytest.mark.parametrize("name", ["../out", "a/../../out", "/abs", "C:\\out", "..\\out"])
def test_a_zip_never_writes_outside(tmp_path: Path, name: str) -> None:
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr(name, b"x")
    with pytest.raises(InputError, match="outside its folder"):
        find_series(path)
    assert not (tmp_path.parent / "out").exists()


def test_a_zip_bomb_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for number in range(5):
            out.writestr(f"f{number}", bytes(20 << 20))
    with pytest.raises(InputError, match="100 MiB in 5 files, more than 200 times"):
        find_series(path)


def test_a_zip_that_lies_about_its_size(tmp_path: Path) -> None:
    path = tmp_path / "lie.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        out.writestr("f", bytes(5 << 20))
    data = path.read_bytes()
    path.write_bytes(data.replace(struct.pack("<I", 5 << 20), struct.pack("<I", 10)))
    with pytest.raises(InputError, match="cannot be unpacked"):
        find_series(path)


def test_damaged_and_encrypted_zips(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("f", b"12345678")
    whole = path.read_bytes()
    path.write_bytes(whole.replace(b"12345678", b"12345679"))
    with pytest.raises(InputError, match="cannot be unpacked"):
        find_series(path)
    at = whole.index(b"PK\x01\x02") + 8
    path.write_bytes(whole[:6] + b"\x01" + whole[7:at] + b"\x01" + whole[at + 1 :])
    with pytest.raises(InputError, match="encrypted"):
        find_series(path)


def test_a_zip_that_does_not_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("f", b"12345678")
    monkeypatch.setattr(archive.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 3}))
    with pytest.raises(InputError, match="the temporary folder has"):
        find_series(path)


def test_a_dicomdir_lists_its_files() -> None:
    """The wheel's DICOMDIR of 52 CT headers (without pixels), and one whose files are not all there."""
    found = find_series(PYDICOM / "dicomdirtests" / "TINY_ALPHA" / "DICOMDIR")
    if not found.series:
        pytest.skip("this wheel of pydicom comes without TINY_ALPHA")
    assert sum(len(series.files) for series in found.series) == 50


def test_a_dicomdir_and_its_missing_or_hostile_files(tmp_path: Path) -> None:
    warnings.simplefilter("ignore")  # pydicom's, of names that the standard does not allow
    source = dcmread(PYDICOM / "dicomdirtests" / "DICOMDIR")
    images = [record for record in source.DirectoryRecordSequence if "ReferencedFileID" in record]
    (good,) = write_series(tmp_path / "in" / "A", ARRAY[:, :, :1], AFFINE)
    (secret,) = write_series(tmp_path / "secret", ARRAY[:, :, :1], AFFINE)
    images[0].ReferencedFileID = ["A", good.name]
    images[1].ReferencedFileID = ["..", "secret", secret.name]
    images[2].ReferencedFileID = ["A", "missing"]
    source.DirectoryRecordSequence = images[:3]
    source.save_as(tmp_path / "in" / "DICOMDIR")
    found = find_series(tmp_path / "in" / "DICOMDIR")
    assert [series.files for series in found.series] == [(good,)]
    (refused,) = found.refused
    assert refused.file.name == "missing"
    assert "No such file" in refused.reason


def test_a_deflated_file_is_read_and_a_bomb_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def edit(dataset: Dataset, z: int) -> None:
        dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian

    write_series(tmp_path, ARRAY, AFFINE, edit)
    (series,) = find_series(tmp_path).series
    assert np.array_equal(read_volume(plan_volumes(series)[0]).array, ARRAY)

    path = series.files[0]
    start = path.read_bytes()[: 144 + struct.unpack("<I", path.read_bytes()[140:144])[0]]
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    path.write_bytes(start + deflate.compress(bytes(8 << 20)) + deflate.flush())
    monkeypatch.setattr(header, "LARGEST_INFLATED", 4 << 20)
    (refused,) = find_series(path).refused
    assert "inflates to more than 4 MiB" in refused.reason


@pytest.mark.parametrize("latency", [0.0, 0.01])
def test_only_a_folder_that_is_waited_for_is_read_by_several_threads(
    latency: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_series(tmp_path, np.zeros((4, 5, 60), np.int16), AFFINE)
    readers: set[int] = set()
    real, waited = find._try, [0.0]

    def slow(path: Path) -> object:
        time.sleep(latency)
        waited.append(latency)
        readers.add(threading.get_ident())
        return real(path)

    monkeypatch.setattr(find, "_try", slow)
    clock = SimpleNamespace(perf_counter=lambda: time.thread_time() + sum(waited), thread_time=time.thread_time)
    monkeypatch.setattr(find, "time", clock)  # of a machine that others leave alone
    (series,) = find_series(tmp_path).series
    assert len(series.files) == 60
    assert plan_volumes(series)[0].shape == (4, 5, 60)
    assert (len(readers) > 1) is (latency > 0)
