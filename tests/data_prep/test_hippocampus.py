from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import pytest

from medkd.errors import InputError

SCRIPT = Path(__file__).parents[2] / "data_prep" / "hippocampus.py"
DATA = os.environ.get("MEDKD_DATA")


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("hippocampus", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("folders", [("images", "labels"), ("imagesTr", "labelsTr")])
def test_scans_and_labels_without_their_other_half_are_left_out(script, tmp_path, folders) -> None:
    rng = np.random.default_rng(0)
    for folder, numbers in zip(folders, (range(10), range(1, 12))):
        (tmp_path / "source" / folder).mkdir(parents=True)
        for number in numbers:
            array = rng.integers(0, 3, (6, 7, 5)).astype(np.uint8 if "label" in folder else np.int16)
            nib.save(
                nib.Nifti1Image(array, np.eye(4)), tmp_path / "source" / folder / f"hippocampus_{number:03d}.nii.gz"
            )
    dataset = script.prepare_hippocampus(tmp_path / "source", tmp_path / "data", labelled=2)
    assert len(dataset.cases) == 9
    assert len({c.patient for c in dataset.cases}) == 9
    assert len(dataset.select("train", labelled=True)) == 2
    with pytest.raises(InputError, match="no images/"):
        script.prepare_hippocampus(tmp_path, tmp_path / "none", labelled=2)


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set")
def test_the_split_of_the_task(script, tmp_path) -> None:
    from medkd.data.splits import split_patients

    names = [row[0] for row in script.paired(Path(str(DATA)) / "hippocampus_msd")]
    assert len(names) == 260
    split = list(split_patients(dict.fromkeys(names, True), script.SHARES, 9, 0).values())
    assert [split.count(s) for s in ("train", "val", "test")] == [182, 26, 52]
