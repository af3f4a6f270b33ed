"""A scan as a picture: the right way up whatever its axes, in mm, with every kind of mask."""

from __future__ import annotations

import io
from pathlib import Path

import nibabel as nib
import nrrd
import numpy as np
import pytest
from PIL import Image
from synthetic_dicom import write_series
from synthetic_labels import oblique, turned, write_seg, write_structures

from medkd.cli.app import run
from medkd.imaging.nifti import write_nifti
from medkd.report.preview import three_planes
from medkd.runs.preview import preview

SHAPE = (24, 20, 6)
HEAD, FOOT = 75, 95
"""Pixels of the picture that hold its title, and its legend with the caption."""


def scan() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A box that is bright in the right anterior upper corner of the patient; a mask; RAS affine, oblique."""
    image = np.random.default_rng(0).integers(0, 60, SHAPE).astype(np.int16)
    image[2:8, 12:18, 3:6] += 500  # index 0 of RAS axes is the patient's left
    image = image[::-1]
    mask = np.zeros(SHAPE, np.uint8)
    mask[9:16, 5:12, 2:5] = 1
    mask[12:14, 7:9, 2:4] = 2
    return image, mask, oblique((1.0, 1.5, 4.0))


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def planes(path: Path, foot: int = FOOT) -> np.ndarray:
    return pixels(path)[HEAD:-foot]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    image, mask, affine = scan()
    write_nifti(tmp_path / "scan.nii.gz", image, affine)
    write_nifti(tmp_path / "mask.nii.gz", mask, affine)
    return tmp_path


def test_every_axis_order_gives_one_picture(files: Path) -> None:
    image, mask, affine = scan()
    preview(files / "scan.nii.gz", files / "ras.png", files / "mask.nii.gz")
    expected = planes(files / "ras.png")
    assert expected.std() > 20
    for number, axes in enumerate(("LPS", "PSR", "SLA", "IAL", "ARI")):
        write_nifti(files / "turned.nii.gz", *turned(image, affine, axes))
        other = turned(mask, affine, ("SAR", "LPS", "PIL")[number % 3])  # of its own, on the same voxels
        write_nifti(files / "mask_turned.nii.gz", *other)
        preview(files / "turned.nii.gz", files / "turned.png", files / "mask_turned.nii.gz")
        assert np.array_equal(planes(files / "turned.png"), expected), axes
    write_nifti(files / "mirrored.nii.gz", image[::-1], affine)
    preview(files / "mirrored.nii.gz", files / "mirrored.png", files / "mask.nii.gz")
    assert not np.array_equal(planes(files / "mirrored.png"), expected)


def test_right_is_left_and_proportions_are_physical() -> None:
    """Three panels of one scale: the bright corner lies at their upper left, and a cube is a square."""
    image = np.zeros((40, 40, 10))
    image[24:36, 24:36, 6:9] = 1  # right of the middle, anterior, superior: 12 x 12 x 12 mm
    picture = np.asarray(Image.open(io.BytesIO(three_planes(image, image > 0, (1, 1, 4)))).convert("RGB")).astype(int)
    tinted = (picture.max(2) - picture.min(2)) > 60  # the mask is the only colour
    tinted[-120:] = False  # its legend too
    columns = np.flatnonzero(tinted.any(0))
    panels = np.split(columns, np.flatnonzero(np.diff(columns) > 20) + 1)
    assert len(panels) == 3
    for panel, third in zip(panels, np.array_split(np.arange(picture.shape[1]), 3)):
        rows = np.flatnonzero(tinted[:, panel].any(1))
        assert abs(len(rows) / len(panel) - 1) < 0.05
        assert panel.mean() < third.mean()  # right, right and anterior
        assert rows.mean() < picture.shape[0] / 2


@pytest.mark.parametrize("kind", ["nrrd", "dicom", "seg", "structures"])
def test_every_format_gives_the_picture_of_the_nifti_files(files: Path, kind: str) -> None:
    image, mask, affine = scan()
    mask[mask == 2] = 1
    write_nifti(files / "mask.nii.gz", mask, affine)
    preview(files / "scan.nii.gz", files / "expected.png", files / "mask.nii.gz")
    source, label = files / "scan.nii.gz", files / "mask.nii.gz"
    if kind == "nrrd":
        lps = np.diag([-1, -1, 1]) @ affine[:3]
        fields = {"space": "LPS", "space directions": lps[:, :3].T, "space origin": lps[:, 3]}
        source, label = files / "scan.nrrd", files / "mask.nrrd"
        nrrd.write(str(source), image, fields)
        nrrd.write(str(label), mask, fields)
    elif kind == "dicom":
        source = files / "series"
        write_series(source, image, affine)
    elif kind == "seg":
        label = files / "seg.dcm"
        write_seg(label, [(1, mask[:, :, z], (0, 0, z)) for z in range(SHAPE[2])], affine, ["class 1"])
    else:
        corners = np.array([(8.5, 4.5), (15.5, 4.5), (15.5, 11.5), (8.5, 11.5)])
        contours = [
            (np.column_stack([corners, np.full(4, z), np.ones(4)]) @ affine.T)[:, :3] for z in range(2, 5)
        ]  # fmt: skip
        label = files / "rs.dcm"
        write_structures(label, {"class 1": contours})
    preview(source, files / "out.png", label)
    assert np.array_equal(planes(files / "out.png", 1), planes(files / "expected.png", 1))  # legend and caption too


def test_no_name_reaches_the_picture(files: Path) -> None:
    """Neither the file's nor the patient's: the same pixels whatever they are."""
    image, _, affine = scan()
    for name in ("a", "DOE_JOHN_1961"):
        write_series(files / name, image, affine, lambda d, z, name=name: setattr(d, "PatientName", name))
        preview(files / name, files / f"{name}.png")
    assert (files / "a.png").read_bytes() == (files / "DOE_JOHN_1961.png").read_bytes()
    assert b"DOE" not in (files / "DOE_JOHN_1961.png").read_bytes()


def test_several_series_are_listed_and_nothing_is_written(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image, _, affine = scan()
    write_series(files / "study" / "one", image, affine, seed="one")
    write_series(files / "study" / "two", image, affine, seed="two")
    assert run(["preview", str(files / "study"), "-o", str(files / "out.png")]) == 2
    message = capsys.readouterr().err
    assert "holds 2 volumes" in message
    assert "synthetic one, 24 x 20 x 6" in message
    assert "synthetic two" in message
    assert not (files / "out.png").exists()
    assert run(["preview", str(files / "study" / "two"), "-o", str(files / "out.png")]) == 0
    assert (files / "out.png").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gone.nii.gz"], "there is no file"),
        (["empty"], "holds no image"),
        (["scan.nii.gz", "other.nii.gz"], "other.nii.gz does not lie on the scan: voxels lie up to 7 mm apart"),
        (["scan.nii.gz", "fractions.nii.gz"], "holds fractions"),
        (["scan.nii.gz", "mask.nii.gz", "-o", "out.jpg"], "ends in .png"),
        (["scan.nii.gz", "empty"], "holds 0 DICOM segmentations"),
    ],
)
def test_what_a_user_gets_wrong(
    files: Path, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    (files / "empty").mkdir()
    _, mask, affine = scan()
    far = affine.copy()
    far[1, 3] += 7
    write_nifti(files / "other.nii.gz", mask, far)
    write_nifti(files / "fractions.nii.gz", mask * 0.3, affine)
    assert run(["preview", *arguments]) == 2
    captured = capsys.readouterr().err
    assert words in captured
    assert "Traceback" not in captured
    assert not list(files.glob("*.png"))
    assert not list(files.glob("*.jpg"))


def test_unknown_spacing_nan_and_sheared_grids_are_drawn(files: Path) -> None:
    image, _, affine = scan()
    values = image.astype(np.float32)
    values[3] = np.nan
    affine[:3, 2] += 0.2 * affine[:3, 0]
    nib.save(nib.Nifti1Image(values, affine), files / "a.nii")
    assert preview(files / "a.nii", files / "a.png").file.exists()
    write_nifti(files / "b.nii", image, np.eye(4), spacing_known=False)
    preview(files / "b.nii", files / "b.png")
    assert pixels(files / "b.png").std() > 20
