from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medkd.errors import InputError
from medkd.imaging.nifti import read_nifti

SCRIPT = Path(__file__).parents[2] / "data_prep" / "acdc.py"
DATA = os.environ.get("MEDKD_DATA")


@pytest.fixture(scope="module")
def acdc() -> ModuleType:
    spec = importlib.util.spec_from_file_location("acdc", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def public_tree(root: Path, numbers: list[str]) -> None:
    """The structure of the public release: Info.cfg, the 4-D series, and two labelled frames."""
    rng = np.random.default_rng(0)
    affine = np.diag([-1.5, -1.5, 10.0, 1.0])
    for number in numbers:
        folder = root / "training" / f"patient{number}"
        folder.mkdir(parents=True)
        systole = 9 if number == "090" else 12
        (folder / "Info.cfg").write_text(
            f"ED: {4 if number == '090' else 1}\nES: {systole}\nGroup: DCM\nHeight: 184.0\n"
        )
        series = rng.integers(0, 200, (8, 8, 3, 13)).astype(np.int16)
        nib.save(nib.Nifti1Image(series, affine), folder / f"patient{number}_4d.nii.gz")
        for frame in (4 if number == "090" else 1, systole):
            label = np.full((8, 8, 3), frame % 4, np.uint8)
            label[0] = 0
            nib.save(nib.Nifti1Image(series[..., frame], affine), folder / f"patient{number}_frame{frame:02d}.nii.gz")
            nib.save(
                nib.Nifti1Image(label + 1 - (label == 3), affine),
                folder / f"patient{number}_frame{frame:02d}_gt.nii.gz",
            )


def test_the_published_split(acdc: ModuleType) -> None:
    assert (len(acdc.TRAIN), len(acdc.VAL), len(acdc.TEST)) == (70, 10, 20)
    assert sorted(acdc.TRAIN + acdc.VAL + acdc.TEST) == [f"{n:03d}" for n in range(1, 101)]
    assert acdc.TRAIN[:7] == ["099", "038", "050", "100", "058", "021", "049"]


def test_the_public_structure(acdc: ModuleType, tmp_path: Path) -> None:
    public_tree(tmp_path / "ACDC", ["099", "038", "090", "028", "011"])
    dataset = acdc.prepare_acdc(tmp_path / "ACDC", tmp_path / "dataset", labelled=1)
    assert {c.id for c in dataset.cases} == {
        f"patient{n}_frame{k}" for n in ("099", "038", "090", "028", "011") for k in ("01", "02")
    }
    assert {c.patient for c in dataset.select("train", labelled=True)} == {"patient099"}
    assert {c.patient for c in dataset.select("train", labelled=False)} == {"patient038", "patient090"}
    assert {c.patient for c in dataset.select("val")} == {"patient028"}
    assert {c.patient for c in dataset.select("test")} == {"patient011"}
    assert dataset.classes == ("background", "rv", "myo", "lv")
    # frame01 is the earlier of the two, whatever its number
    case = next(c for c in dataset.cases if c.id == "patient090_frame01")
    series = nib.load(tmp_path / "ACDC/training/patient090/patient090_4d.nii.gz").get_fdata()
    assert np.array_equal(read_nifti(case.images[0]).array, series[..., 4])
    assert not any("Info" in p.name or "4d" in p.name for p in (tmp_path / "dataset").rglob("*"))


def test_a_missing_frame_and_an_empty_folder(acdc: ModuleType, tmp_path: Path) -> None:
    public_tree(tmp_path / "ACDC", ["099", "038"])
    next((tmp_path / "ACDC").rglob("patient038_frame12_gt.nii.gz")).unlink()
    with pytest.raises(InputError, match="patient038: no file for frame 12_gt"):
        acdc.prepare_acdc(tmp_path / "ACDC", tmp_path / "dataset", labelled=1)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no patientXXX folder"):
        acdc.prepare_acdc(tmp_path / "empty", tmp_path / "dataset", labelled=1)
    assert not (tmp_path / "dataset").exists()


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real scans here")
@pytest.mark.slow
def test_the_real_flat_folder_and_the_published_slice_counts(acdc: ModuleType, tmp_path: Path) -> None:
    dataset = acdc.prepare_acdc(Path(str(DATA), "acdc"), tmp_path / "dataset", labelled=3)
    assert [len({c.patient for c in dataset.select(s)}) for s in ("train", "val", "test")] == [70, 10, 20]
    assert sum(c.shape[2] for c in dataset.select("train", labelled=True)) == 68
    slices = dict.fromkeys(acdc.TRAIN, 0)
    for case in dataset.select("train"):
        slices[case.patient.removeprefix("patient")] += case.shape[2]
    counts = np.cumsum([slices[n] for n in acdc.TRAIN])
    expected = {1: 32, 3: 68, 7: 136, 14: 256, 21: 396, 28: 512, 35: 664, 70: 1312}
    assert {k: int(counts[k - 1]) for k in expected} == expected
    assert all(c.spacing is None for c in dataset.cases)
