"""medkd doctor: what is wrong is named with its fix, and nothing makes it fail."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import re
import shutil
import tomllib
from collections import namedtuple
from pathlib import Path

import pytest
import torch

from medkd.cli.app import run
from medkd.imaging.dicom.pixels import decodable
from medkd.runs import doctor
from medkd.runs.doctor import Check, examine

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
Usage = namedtuple("Usage", "total used free")


@pytest.fixture(autouse=True)
def _project(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this source tree needs, whatever an editable installation of another day says."""
    monkeypatch.setattr(
        importlib.metadata, "requires", lambda _: [*PROJECT["dependencies"], "gone>=1; extra == 'test'"]
    )


def by_name(name: str) -> Check:
    return next(check for check in examine() if check.name == name)


def with_versions(monkeypatch: pytest.MonkeyPatch, **versions: str | None) -> None:
    real = importlib.metadata.version

    def version(name: str) -> str:
        found = versions.get(name.replace("-", "_"), "real")
        if found is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return real(name) if found == "real" else found

    monkeypatch.setattr(importlib.metadata, "version", version)


def test_the_command_answers_with_code_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["doctor", "--json"]) == 0
    checks = {check["name"]: check for check in json.loads(capsys.readouterr().out)["checks"]}
    for name in ("python", "medkd", "torch", "monai", "pydicom", "SimpleITK", "opencv", "threads", "disk here",
                 "shared memory", "DICOM RLE Lossless"):  # fmt: skip
        assert checks[name]["ok"] == (not checks[name]["advice"])
        assert checks[name]["found"]
    assert checks["torch"]["found"] == torch.__version__.split("+")[0] or checks["torch"]["found"] == torch.__version__
    assert "gone" not in checks
    assert sum(name.startswith("DICOM ") for name in checks) == len(decodable())
    assert run(["doctor"]) == 0
    assert re.search(r"^\d+ checks, (all well|\d+ to look at)$", capsys.readouterr().out, re.MULTILINE)


def test_versions_that_do_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, monai="1.2.0", nibabel=None)
    assert by_name("monai") == Check("monai", "1.2.0", "pip install 'monai<2,>=1.6'")
    assert by_name("nibabel").found == "not installed"
    assert not by_name("nibabel").ok
    assert by_name("pydicom").ok


def test_two_opencv_wheels_are_a_conflict(monkeypatch: pytest.MonkeyPatch) -> None:
    with_versions(monkeypatch, opencv_python="4.11", opencv_python_headless=None, opencv_contrib_python=None,
                  opencv_contrib_python_headless=None)  # fmt: skip
    assert by_name("opencv") == Check("opencv", "opencv-python 4.11")
    with_versions(monkeypatch, opencv_python="4.11", opencv_python_headless="4.12")
    assert by_name("opencv").found.startswith("opencv-python 4.11, opencv-python-headless 4.12")
    assert "pip uninstall -y opencv-python " in by_name("opencv").advice


def test_detectron2_is_not_needed_and_a_copy_of_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = namedtuple("Spec", "origin")("/somewhere/detectron2/__init__.py")
    for version, there, found, ok in (
        (None, None, "not installed (not needed)", True),
        ("0.6", spec, "0.6 at /somewhere/detectron2/__init__.py", True),
        (None, spec, "another package's copy at /somewhere/detectron2/__init__.py", False),
    ):
        with_versions(monkeypatch, detectron2=version)
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=there: spec)
        assert by_name("detectron2").found == found
        assert by_name("detectron2").ok == ok


def test_little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(64 << 20, 0, 3 << 30))
    assert "another disk" in by_name("disk here").advice
    assert "TMPDIR" in by_name("disk for temporary files").advice
    if Path("/dev/shm").exists():
        assert by_name("shared memory").found == "/dev/shm 0.062 GiB"
        assert "--shm-size" in by_name("shared memory").advice


def test_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_quota", lambda: 1.5)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    assert "OMP_NUM_THREADS=" in by_name("threads").advice
    assert "limited to 1.5" in by_name("threads").found
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert by_name("threads").ok


def test_a_gpu_that_torch_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/nvidia-smi" if name == "nvidia-smi" else None)
    assert "cannot use it" in by_name("devices").found
    assert not by_name("devices").ok
    about = namedtuple("About", "name total_memory")("Card", 80 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: about)
    assert by_name("cuda:1").found.startswith("Card, 80 GiB")


def test_a_check_that_fails_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def broken() -> bool:
        raise OSError("libcudart.so: cannot open\nshared object file")

    monkeypatch.setattr(torch.cuda, "is_available", broken)
    assert by_name("devices") == Check(
        "devices", "not known (libcudart.so: cannot open shared object file)", "look by hand"
    )
    assert by_name("shared memory").found
    assert run(["doctor"]) == 0
    assert "Traceback" not in capsys.readouterr().err
