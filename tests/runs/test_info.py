"""What `medkd info` says of every kind of path."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import nrrd
import numpy as np
import pytest
import yaml
from archives import AFFINE, CLASSES, SHAPE, add_seg, add_series, box, cohort, picture, zipped
from pydicom import Dataset as Header
from pydicom.fileset import FileSet

from medkd.cli.app import run
from medkd.errors import InputError
from medkd.runs.info import inspect
from medkd.runs.prepare import prepare


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients in nested folders: whole, with a segmentation; with a gap; tilted; and what is no scan."""
    root = tmp_path_factory.mktemp("info") / "pacs"
    add_series(root / "1/a/b", "patient1", "whole", picture(1))
    add_seg(root / "1/seg", root / "1/a/b", box())
    add_series(root / "2", "patient2", "gap", picture(2))[4].unlink()

    def lean(dataset: Header, z: int) -> None:
        dataset.ImagePositionPatient[1] = float(dataset.ImagePositionPatient[1]) + z
        dataset.BurnedInAnnotation = "YES"

    add_series(root / "3", "patient3", "tilt", picture(3), lean)
    (root / "readme").write_text("no scan")
    return root


def volumes(found: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By the description of their series."""
    return {one["description"]: v for study in found["studies"] for one in study["series"] for v in one["volumes"]}


def test_an_archive(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(archive), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kind"] == "scans"
    assert len(found["studies"]) == 3
    assert {study["patient"] for study in found["studies"]} == {1, 2, 3}
    assert found["ignored"] == 1
    by_name = volumes(found)
    whole = by_name["abdomen whole"]
    assert whole["accepted"]
    assert (whole["shape"], whole["spacing"], whole["axes"], whole["slices"]) == (
        list(SHAPE),
        [1.5, 1.5, 3.0],
        "LPS",
        8,
    )
    gap = by_name["abdomen gap"]
    assert not gap["accepted"]
    assert "1 slice is missing" in gap["problems"][0]
    assert gap["fix"].startswith("--allow-resample: interpolated linearly")
    tilt = by_name["abdomen tilt"]
    assert "leans 18.4 degrees" in tilt["problems"][0]
    assert "may name the patient" in tilt["problems"][1]
    assert "--allow-burned-in" in tilt["fix"]
    series = [one for study in found["studies"] for one in study["series"]]
    assert {one["kind"] for one in series} == {"image", "segmentation"}
    assert all(one["syntaxes"] == ["Explicit VR Little Endian"] for one in series if one["kind"] == "image")


def test_the_words(archive: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["info", str(archive)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{archive}: 3 patients, 3 studies, 4 DICOM series; 1 of 3 volumes accepted"
    assert any("labels (DICOM SEG)" in line for line in lines)
    assert "    24 x 20 x 8, 1.5 x 1.5 x 3 mm, axes LPS: accepted" in lines
    assert "1 other files" in lines
    assert not [line for line in lines if "ID-patient" in line or "^" in line]


def test_a_zip_a_file_and_a_dicomdir(archive: Path, tmp_path: Path) -> None:
    whole = volumes(inspect(archive))
    assert {k: v["problems"] for k, v in volumes(inspect(zipped(archive))).items()} == {
        k: v["problems"] for k, v in whole.items()
    }
    slice_alone = volumes(inspect(next(p for p in (archive / "1/a/b").iterdir())))["abdomen whole"]
    assert slice_alone["problems"] == ["it is a single slice, not a volume"]
    media = FileSet()
    for path in (archive / "1/a/b").iterdir():
        media.add(path)
    media.write(tmp_path / "media")
    (tmp_path / "media/unlisted").write_bytes(next((archive / "2").iterdir()).read_bytes())
    assert list(volumes(inspect(tmp_path / "media/DICOMDIR"))) == ["abdomen whole"]
    assert len(volumes(inspect(tmp_path / "media"))) == 2


def test_nifti_and_nrrd_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = nib.Nifti1Image(picture(1), AFFINE)
    image.header.set_xyzt_units("mm")
    nib.save(image, tmp_path / "a.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 2), np.int16), np.eye(4)), tmp_path / "b.nii")
    header = {"space": "LPS", "space directions": np.diag([1.0, 1, 2]), "space origin": [0, 0, 0]}
    nrrd.write(str(tmp_path / "c.nrrd"), picture(2), header)
    files = {Path(file["file"]).name: file for file in inspect(tmp_path)["files"]}
    assert files["a.nii.gz"]["accepted"]
    assert (files["a.nii.gz"]["axes"], files["a.nii.gz"]["spacing"]) == ("LPS", [1.5, 1.5, 3])
    assert "split a 4-D series" in files["b.nii"]["problems"][0]
    assert (files["c.nrrd"]["axes"], files["c.nrrd"]["shape"]) == ("LPS", list(SHAPE))
    assert run(["info", str(tmp_path / "c.nrrd")]) == 0
    assert "24 x 20 x 8, 1 x 1 x 2 mm, axes LPS: accepted" in capsys.readouterr().out


def test_folders_of_medkd(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(cohort(tmp_path / "pacs", 3), tmp_path / "data", classes=CLASSES, labelled=1, split=(0.34, 0.33, 0.33))
    summary = inspect(tmp_path / "data")["summary"]
    assert summary.startswith("segmentation dataset of 3 cases of 3 patients (1 train, 1 val, 1 test)")
    model = {"task": "segmentation", "network": {"kind": "VNet"}, "preprocess": {"dims": 3}, "channels": ["ct"],
             "classes": ["background", "liver"]}  # fmt: skip
    (tmp_path / "run/model").mkdir(parents=True)
    (tmp_path / "run/recipe.yaml").write_text(yaml.safe_dump({"phases": [{"method": {"kind": "bcp"}}]}))
    (tmp_path / "run/manifest.json").write_text("{}")
    assert inspect(tmp_path / "run")["summary"] == "training run of bcp; unfinished"
    (tmp_path / "run/model/model.yaml").write_text(yaml.safe_dump(model))
    assert inspect(tmp_path / "run")["summary"].endswith("finished: model/ holds what it learnt")
    assert run(["info", str(tmp_path / "run/model")]) == 0
    assert "segmentation model, VNet in 3-D; channels ct; classes background, liver" in capsys.readouterr().out
    (tmp_path / "run/model/model.yaml").write_text("[1, 2")
    with pytest.raises(InputError, match="cannot be read"):
        inspect(tmp_path / "run/model")


def test_what_is_no_scan(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no file or folder"):
        inspect(tmp_path / "nowhere")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="is not DICOM, NIfTI"):
        inspect(tmp_path / "text")
    with pytest.raises(InputError, match="1 files, none of them DICOM"):
        inspect(tmp_path)


def test_a_broken_file_is_one_line(archive: Path, tmp_path: Path) -> None:
    content = next((archive / "2").iterdir()).read_bytes()
    (tmp_path / "broken").write_bytes(content[:140] + b"\xff" * 300)
    (tmp_path / "whole").write_bytes(content)
    found = inspect(tmp_path)
    assert [Path(one["file"]).name for one in found["refused"]] == ["broken"]
    assert len(found["studies"]) == 1


def test_info_imports_no_torch() -> None:
    code = "import sys, medkd.runs.info, medkd.cli.info; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "torch was imported"
