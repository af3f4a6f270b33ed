from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

import medkd.runs.prepare_write as module
from medkd.errors import InputError
from medkd.imaging.nifti import read_header

DATA = os.environ.get("MEDKD_DATA")


@pytest.fixture(scope="module")
def acdc() -> ModuleType:
    path = Path(__file__).parents[2] / "data_prep" / "acdc.py"
    spec = importlib.util.spec_from_file_location("acdc", path)
    assert spec
    assert spec.loader
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def public_patient(root: Path, number: str) -> Path:
    folder = root / "training" / f"patient{number}"
    folder.mkdir(parents=True)
    (folder / "Info.cfg").write_text("ED: 1\nES: 12\nGroup: DCM\n")
    array = np.zeros((5, 5, 3), np.int16)
    array[1:3] = 2
    for name in ("frame01", "frame01_gt", "frame12", "frame12_gt"):
        nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 10, 1])), folder / f"patient{number}_{name}.nii.gz")
    return folder


def test_an_interrupted_preparation_of_the_public_release_continues(
    acdc: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in ("099", "028", "011"):
        public_patient(tmp_path / "ACDC", number)

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "write_dataset", stop)
        with pytest.raises(KeyboardInterrupt):
            acdc.prepare_acdc(tmp_path / "ACDC", tmp_path / "out", labelled=1)
    done = acdc.prepare_acdc(tmp_path / "ACDC", tmp_path / "out", labelled=1)
    assert len(done.cases) == 6
    assert not list((tmp_path / "out").rglob("*gt*"))


def test_the_lower_frame_number_is_frame01_even_if_it_is_systole(acdc: ModuleType, tmp_path: Path) -> None:
    folder = public_patient(tmp_path / "ACDC", "099")
    (folder / "Info.cfg").write_text("ED: 12\nES: 1\n")
    rows = acdc.public_cases(tmp_path / "ACDC")[1:]
    assert [(row[0], Path(row[4]).name) for row in rows] == [
        ("patient099_frame01", "patient099_frame01.nii.gz"),
        ("patient099_frame02", "patient099_frame12.nii.gz"),
    ]


def test_every_patient_without_frame_numbers_is_named(acdc: ModuleType, tmp_path: Path) -> None:
    for number in ("099", "038", "028"):
        folder = public_patient(tmp_path / "ACDC", number)
        if number != "028":
            (folder / "Info.cfg").write_text("Group: DCM\n")
    with pytest.raises(InputError) as caught:
        acdc.prepare_acdc(tmp_path / "ACDC", tmp_path / "out", labelled=1)
    assert len(caught.value.problems) == 2


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real scans here")
def test_labelled_slices_of_the_real_scans_are_the_published_ones(acdc: ModuleType) -> None:
    images = Path(str(DATA), "acdc", "images")

    def slices(numbers: list[str]) -> int:
        return sum(read_header(p).shape[2] for n in numbers for p in images.glob(f"patient{n}_frame0?.nii.gz"))

    expected = {1: 32, 3: 68, 7: 136, 14: 256, 21: 396, 28: 512, 35: 664, 70: 1312}
    assert {k: slices(acdc.TRAIN[:k]) for k in expected} == expected
    assert (slices(acdc.VAL), slices(acdc.TEST)) == (210, 380)


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real scans here")
def test_a_part_of_the_real_flat_folder(acdc: ModuleType, tmp_path: Path) -> None:
    """The first patients of each split, as links: read as they are, voxels in unknown spacing."""
    chosen = [*acdc.TRAIN[:4], acdc.VAL[0], acdc.TEST[0]]
    real = Path(str(DATA), "acdc")
    lines = (real / "cases.csv").read_text().splitlines()
    for kind in ("images", "labels"):
        (tmp_path / "flat" / kind).mkdir(parents=True)
        for file in (f for n in chosen for f in (real / kind).glob(f"patient{n}_*")):
            (tmp_path / "flat" / kind / file.name).symlink_to(file)
    kept = [lines[0], *(line for line in lines[1:] if line[7:10] in chosen)]
    (tmp_path / "flat" / "cases.csv").write_text("\n".join(kept))
    done = acdc.prepare_acdc(tmp_path / "flat", tmp_path / "out", labelled=3)
    assert sum(c.shape[2] for c in done.select("train", labelled=True)) == 68
    assert [len(done.select(s)) for s in ("train", "val", "test")] == [8, 2, 2]
    assert all(c.spacing is None for c in done.cases)
    assert "spacing_unit: unknown" in (tmp_path / "out" / "dataset.yaml").read_text()
