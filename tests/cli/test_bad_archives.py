"""What a user gets wrong with DICOM archives: exit code 2, one readable message, no traceback, nothing half-written."""

from __future__ import annotations

import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from archives import AFFINE, add_seg, add_series, add_structures, box, cohort, picture

from medkd.cli.app import run


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Three patients without labels."""
    for number in range(3):
        add_series(tmp_path / f"pacs/patient{number}", f"patient{number}", "portal", picture(number))
    return tmp_path / "pacs"


def refused(capsys: pytest.CaptureFixture[str], source: Path, *more: str, out: str = "data") -> str:
    """The message of a prepare that fails as it should."""
    target = source.parent / out
    before = sorted(source.parent.iterdir())
    arguments = ["prepare", str(source), "--out", str(target), "--labelled", "1", "--split", "0.34/0.33/0.33", *more]
    capsys.readouterr()
    assert run(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.out + captured.err
    assert sorted(source.parent.iterdir()) == before, "something was written"
    return captured.err


CLASSES = ("--classes", "background,liver")


def test_labels_that_point_nowhere(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, archive, "--labels", str(archive.parent / "nowhere"), *CLASSES)
    assert text == f"error: no file or folder of labels at {archive.parent / 'nowhere'}\n"
    (archive.parent / "empty").mkdir()
    text = refused(capsys, archive, "--labels", str(archive.parent / "empty"), *CLASSES)
    assert text.startswith("error: no label in ")


def test_a_segmentation_of_another_series(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    add_series(tmp_path / "other", "stranger", "portal", picture(9))
    add_seg(tmp_path / "segs/stray.dcm", tmp_path / "other", box())
    text = refused(capsys, archive, "--labels", str(tmp_path / "segs"), *CLASSES)
    assert "stray.dcm: this label was drawn on a series that the archive does not hold" in text


def test_labels_on_another_grid(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels").mkdir()
    moved = AFFINE.copy()
    moved[2, 3] += 1.5
    for number in range(3):
        image = nib.Nifti1Image(box().astype(np.uint8), moved)
        image.header.set_xyzt_units("mm")
        nib.save(image, tmp_path / f"labels/patient{number}.nii.gz")
    text = refused(capsys, archive, "--labels", str(tmp_path / "labels"), *CLASSES)
    assert text.count("label is not on the grid of the image: voxels lie up to 1.5 mm apart") == 3


def test_structures_on_another_grid(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    boxes = {"liver": (slice(6, 14), slice(5, 12), slice(20, 24))}
    for number in range(3):
        add_structures(tmp_path / f"rt/{number}.dcm", archive / f"patient{number}", boxes)
    text = refused(capsys, archive, "--labels", str(tmp_path / "rt"), *CLASSES)
    assert text.count("lie beyond the 8 slices of the image") == 3


def test_classes_that_are_not_declared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = cohort(tmp_path / "pacs", 3)
    text = refused(capsys, archive)
    assert "the labels show the structures 'Liver'; say which are the classes" in text
    assert "--classes background,Liver" in text
    text = refused(capsys, archive, "--classes", "background,spleen")
    assert text.count("it shows none of the classes spleen, but 1 other structures") == 3


def test_labels_whose_names_fit_no_case(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "labels").mkdir()
    nib.save(nib.Nifti1Image(box().astype(np.uint8), AFFINE), tmp_path / "labels/nobody.nii.gz")
    text = refused(capsys, archive, "--labels", str(tmp_path / "labels"), *CLASSES)
    assert "label nobody.nii.gz is named like 0 of 3 cases" in text


def test_two_labels_of_one_series(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    archive = cohort(tmp_path / "pacs", 3)
    add_seg(archive / "export1/B/second", archive / "export1/A/S1", box())
    text = refused(capsys, archive, *CLASSES)
    assert "2 labels were drawn on this series, and one is needed" in text


@pytest.mark.parametrize("name", ["../evil.dcm", "/evil.dcm", "a/../../evil.dcm", "C:evil.dcm"])
def test_a_zip_that_would_write_elsewhere(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    source = tmp_path / "in" / "bad.zip"
    source.parent.mkdir()
    with zipfile.ZipFile(source, "w") as file:
        file.writestr(name, b"x")
    assert "would be written outside its folder" in refused(capsys, source)
    assert not list(tmp_path.rglob("evil*"))


def test_an_empty_folder_and_one_without_scans(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = tmp_path / "in" / "empty"
    source.mkdir(parents=True)
    assert refused(capsys, source) == f"error: {source} is empty: no DICOM, NIfTI or NRRD file\n"
    (source / "letter.txt").write_text("dear colleague")
    assert "holds 1 files, and none is DICOM" in refused(capsys, source)
    (source / "sub").mkdir()
    nib.save(nib.Nifti1Image(picture(1), AFFINE), source / "sub/a.nii.gz")
    assert "NIfTI or NRRD files in folders below it" in refused(capsys, source)


def test_a_modality_and_a_description_that_are_not_there(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = refused(capsys, archive, "--modality", "MR", *CLASSES)
    assert "has modality MR; there are CT 'abdomen portal' (3)" in text
    text = refused(capsys, archive, "--series", "arterial", *CLASSES)
    assert "has a description that matches 'arterial'" in text
    assert "not a regular expression" in refused(capsys, archive, "--series", "(", *CLASSES)


def test_an_archive_of_refused_series_only(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for folder in archive.iterdir():
        (folder / "I00003").unlink()
    text = refused(capsys, archive, *CLASSES)
    assert text.count("1 slice is missing") == 3
    assert text.count("--allow-resample") == 3


def test_options_without_effect(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "gives one channel" in refused(capsys, archive, "--channels", "a,b")
    assert "has no effect on a DICOM archive" in refused(capsys, archive, "--patient-pattern", "(.+)")
    image = nib.Nifti1Image(picture(1), AFFINE)
    (tmp_path / "plain").mkdir()
    nib.save(image, tmp_path / "plain/a_b.nii.gz")
    assert "is no DICOM archive" in refused(capsys, tmp_path / "plain", "--modality", "CT")
    assert "--key has no effect" in refused(
        capsys, tmp_path / "plain", "--keep-identifiers", "--key", str(tmp_path / "k.csv")
    )
