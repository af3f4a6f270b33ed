from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medkd.cli.app import run


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for folder in ("images", "labels"):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for patient in range(10):
            array = np.zeros((6, 5, 4), np.int16)
            array[1:3] = 1
            nib.save(nib.Nifti1Image(array, np.eye(4)), tmp_path / "source" / folder / f"p{patient}_a.nii.gz")
    return tmp_path / "source"


def test_counts_and_the_next_command(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "my data"
    arguments = ["prepare", str(source), "--out", str(out), "--labelled", "3", "--classes", "background, organ"]
    assert run([*arguments, "--dry-run"]) == 0
    assert "nothing was written" in capsys.readouterr().out
    assert not out.exists()
    assert run(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "train    7 patients     7 cases" in lines
    assert "val      1 patients     1 cases" in lines
    assert "test     2 patients     2 cases" in lines
    assert "labelled: 3 training patients, 3 cases" in lines
    command = f"medkd train configs/segmentation/bcp_acdc_3.yaml 'data={out}' --out RUN"
    assert lines[-1] == f"next, in a clone of medkd: {command}"
    assert "- organ" in (out / "dataset.yaml").read_text()


def test_unknown_spacing_is_stated_by_every_output(source: Path, tmp_path: Path) -> None:
    assert run(["prepare", str(source), "--out", str(tmp_path / "out"), "--labelled", "1"]) == 0
    assert "spacing_unit: unknown" in (tmp_path / "out" / "dataset.yaml").read_text()
    files = sorted((tmp_path / "out").rglob("*.nii.gz"))
    assert len(files) == 20
    assert {nib.load(file).header.get_xyzt_units()[0] for file in files} == {"unknown"}


def test_shares_that_are_no_numbers(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["prepare", str(source), "--out", str(tmp_path / "out"), "--labelled", "1", "--split"]
    assert run([*arguments, "70%/10%/20%"]) == 2
    assert "write three shares" in capsys.readouterr().err
    assert run([*arguments, "0.7/0.3"]) == 2
    assert "sum to 1" in capsys.readouterr().err


def test_preparing_needs_no_torch() -> None:
    code = "import sys, medkd.runs.prepare, medkd.cli.prepare; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "torch was imported"


def test_the_command_says_where_the_private_key_lies(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["prepare", str(source), "--out", str(tmp_path / "data"), "--labelled", "1"]
    assert run(arguments) == 0
    assert f"private: {tmp_path / 'data.private.csv'} says whose each case is" in capsys.readouterr().out
    assert not list((tmp_path / "data/images").glob("p0_*"))
    assert run([*arguments[:3], str(tmp_path / "kept"), *arguments[4:], "--keep-identifiers"]) == 0
    assert "private:" not in capsys.readouterr().out
    assert len(list((tmp_path / "kept/images").glob("p0_*"))) == 1
