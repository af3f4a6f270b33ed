"""A prepare that stops in the middle: nothing half-written, and the second run ends where an unbroken one would."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medkd.runs.prepare_write as module
from medkd.errors import InputError
from medkd.imaging.nifti import read_nifti
from medkd.runs.prepare import prepare as with_private_names

prepare = partial(with_private_names, keep_identifiers=True)  # tests read the names back
AFFINE = np.array([[0.9, -0.5, 0.3, -40], [0.6, 1.1, -0.9, 12.5], [-0.1, 0.4, 7.4, 3.25], [0, 0, 0, 1]], np.float32)
SECRET = b"DOE^JANE"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten patients of two channels, oblique and sheared, with an identifier in every free field of every file."""
    rng = np.random.default_rng(0)
    for folder, count in (("images", 2), ("labels", 1)):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for patient in range(10):
            for channel in range(count):
                array = np.zeros((6, 5, 4), np.float64 if folder == "labels" else (np.int16, np.float32)[channel])
                array[1:4, 1:4] = 1 if folder == "labels" else rng.normal(100, 30, (3, 3, 4))
                picture = nib.Nifti1Image(array, AFFINE)
                for name in ("descrip", "db_name", "aux_file", "intent_name"):
                    picture.header[name] = SECRET
                picture.header.extensions.append(nib.nifti1.Nifti1Extension("dicom", SECRET))
                name = f"p{patient}" + (f"_{channel:04d}" if count > 1 else "")
                nib.save(picture, tmp_path / "source" / folder / f"{name}.nii.gz")
    return tmp_path / "source"


def run(source: Path, out: Path) -> None:
    prepare(source, out, channels=("t1", "t2"), classes=("background", "organ"), labelled=2)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def broken_at(count: int, action: Callable[[Path], None]) -> Callable[..., None]:
    """`write_nifti` that fails at the given call, after leaving what a killed process leaves."""
    calls = iter(range(10**6))
    write = module.write_nifti

    def write_or_fail(path: Path, *values: object) -> None:
        if next(calls) == count:
            action(path)
            raise OSError("No space left on device")
        write(path, *values)

    return write_or_fail


def leave_half(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f".{path.name}.partial.nii.gz").write_bytes(b"half")


def test_the_second_run_gives_the_bytes_of_an_unbroken_one(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "whole")
    for count in (0, 7, 29):
        out = tmp_path / f"out{count}"
        with monkeypatch.context() as patch:
            patch.setattr(module, "write_nifti", broken_at(count, leave_half))
            with pytest.raises(OSError, match="No space left"):
                run(source, out)
        assert not (out / "dataset.yaml").exists()
        assert not (out / "cases.csv").exists()
        for path in out.rglob("*.nii.gz"):
            if not path.name.startswith("."):
                read_nifti(path)  # what has its name is whole
        kept = {p: p.stat().st_mtime_ns for p in out.rglob("p*.nii.gz")}
        run(source, out)
        assert contents(out) == contents(tmp_path / "whole")
        assert {p: p.stat().st_mtime_ns for p in kept} == kept  # whole files were not written again


def test_a_file_damaged_meanwhile_is_written_again(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(source, tmp_path / "whole")
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_dataset", broken_at(0, lambda _: None))
        with pytest.raises(OSError, match="No space left"):
            run(source, tmp_path / "out")
    path = tmp_path / "out/images/p3_0001.nii.gz"
    path.write_bytes(path.read_bytes()[:-9])
    run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_an_unfinished_folder_belongs_to_its_source(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(module, "write_nifti", broken_at(7, lambda _: None))
        with pytest.raises(OSError, match="No space left"):
            run(source, tmp_path / "out")
    (tmp_path / "out/notes.txt").write_text("mine")
    with pytest.raises(InputError, match=r"did not write \(notes.txt\)"):
        run(source, tmp_path / "out")
    (tmp_path / "out/notes.txt").unlink()
    before = contents(tmp_path / "out")
    os.utime(source / "images/p0_0000.nii.gz", ns=(1, 1))
    with pytest.raises(InputError, match="unfinished dataset of another source"):
        run(source, tmp_path / "out")
    assert contents(tmp_path / "out") == before


def test_identifiers_and_source_paths_reach_no_file(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    files = contents(tmp_path / "out")
    assert SECRET in gzip.decompress((source / "images/p0_0000.nii.gz").read_bytes())
    for name, content in files.items():
        content = gzip.decompress(content) if name.endswith(".gz") else content
        assert SECRET not in content, name
        assert str(tmp_path).encode() not in content, name
    assert len(files) == 34


def test_every_file_of_a_case_is_exactly_on_its_grid(source: Path, tmp_path: Path) -> None:
    run(source, tmp_path / "out")
    for path in (tmp_path / "out").rglob("*.nii.gz"):
        scan, original = read_nifti(path), read_nifti(source / path.relative_to(tmp_path / "out"))
        assert np.array_equal(scan.affine, AFFINE)
        assert np.array_equal(scan.array, original.array)
        assert scan.array.dtype == (np.uint8 if "labels" in path.parts else original.array.dtype)
        assert nib.load(path).header["qform_code"] == 0  # sheared: only the s-form can say it
    notes = json.loads((tmp_path / "out/report.json").read_text())["notes"]
    assert "label: whole numbers stored as float64, written as integers" in notes["p0"]
