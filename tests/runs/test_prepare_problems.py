"""What a source can have wrong that needs more than one broken file: tables, channels, patients, places."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medkd.data.dataset import Dataset
from medkd.errors import InputError
from medkd.runs.prepare import prepare as with_private_names

prepare = partial(with_private_names, keep_identifiers=True)  # tests read the names back
SHAPE = (8, 7, 3)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(array, np.diag([1.5, 1.5, 8, 1]) if affine is None else affine), path)


def image(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, SHAPE).astype(np.int16)


def label(value: int = 1) -> np.ndarray:
    array = np.zeros(SHAPE, np.uint8)
    array[2:5, 2:5] = value
    return array


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten patients, one scan each."""
    for patient in range(10):
        save(tmp_path / "source/images" / f"p{patient}_a.nii.gz", image(patient))
        save(tmp_path / "source/labels" / f"p{patient}_a.nii.gz", label())
    return tmp_path / "source"


def refused(source: Path, **options: object) -> list[str]:
    out = source.parent / "out"
    with pytest.raises(InputError) as caught:
        prepare(source, out, **({"labelled": 1} | options))
    assert not out.exists()
    return caught.value.problems


def table(source: Path, *rows: str) -> Path:
    path = source.parent / "table.csv"
    path.write_text("\n".join(rows), encoding="utf-8")
    return path


def test_a_table_and_its_files_are_refused_in_one_list(source: Path) -> None:
    """Problems of rows, of splits and of voxels come together: nobody repairs a list only to meet the next one."""
    (source.parent / "secret.nii.gz").write_bytes((source / "images/p0_a.nii.gz").read_bytes())
    save(source / "images/p5_a.nii.gz", np.full(SHAPE, np.inf, np.float32))
    (source / "labels/p6_a.nii.gz").unlink()
    (source / "labels/p9_a.nii.gz").unlink()
    rows = [
        "case,patient,split,labelled,image",
        "p0_a,p0,train,yes,",
        "p0_a,p0,train,yes,",
        "p1_a,p1,training,no,",
        "p2_a,p2,train,perhaps,",
        "p3_a,leak,train,no,",
        "p4_a,leak,test,no,",
        "p5_a,p5,train,no,",
        "p6_a,p6,test,no,",
        "p9_a,p12,val,no,",
        "p7_a,p7,train,no,../secret.nii.gz",
        f"p8_a,p8,train,no,{(source.parent / 'secret.nii.gz').as_posix()}",
        "../p9,p9,train,no,images/p9_a.nii.gz",
        "nobody,p10,train,no,",
        "lost,p11,train,no,images/lost.nii.gz",
        "anonymous,,train,no,images/p9_a.nii.gz",
    ]
    found = refused(source, table=table(source, *rows), labelled=None)
    for words in (
        "case p0_a is listed twice",
        "case p1_a: split is 'training'; allowed: train, val, test",
        "case p2_a: labelled is 'perhaps'",
        "patient leak is in test and train",
        "case p5_a: p5_a.nii.gz holds 168 values that are not finite",
        "case p6_a: no label; it is needed: split test",
        "case p9_a: no label; it is needed: split val",
        "case p7_a: image is '../secret.nii.gz', outside the source",
        "case p8_a: image is '/",
        "case '../p9': the id names files",
        "case nobody: 0 images were found; 1 are needed",
        "case lost: image is 'images/lost.nii.gz', and no such file",
        "case anonymous: patient is empty",
    ):
        assert any(p.startswith(words) for p in found), (words, found)
    assert len(found) == 13


def test_channels_on_different_grids_and_missing_channels(tmp_path: Path) -> None:
    images = tmp_path / "source" / "images"
    for name in ("p0", "p1", "p2"):
        save(images / f"{name}_0000.nii.gz", image())
    moved = np.diag([1.5, 1.5, 8, 1])
    moved[2, 3] = 4
    save(images / "p0_0001.nii.gz", image(), moved)
    save(images / "p1_0002.nii.gz", image())
    (images / "p2_0001.nii.gz").write_bytes(b"broken")
    found = refused(tmp_path / "source", channels=("t1", "t2"))
    words = "case p0: p0_0001.nii.gz is not on the grid of p0_0000.nii.gz: voxels lie up to 4 mm apart; origin"
    assert any(p.startswith(words) for p in found)
    assert any(p.startswith("case p1: 2 channels need the files p1_0000 to p1_0001") for p in found)
    assert any(p.startswith("case p2: image: p2_0001.nii.gz cannot be read") for p in found)


def test_one_name_in_two_forms(source: Path) -> None:
    save(source / "images/p0_a.nii", image())
    assert any("both p0_a.nii and p0_a.nii.gz as image" in p for p in refused(source))


def test_single_channel_files_in_nnunet_naming(tmp_path: Path) -> None:
    for patient in range(10):
        save(tmp_path / "source" / f"p{patient}_0000.nii.gz", image(patient))
        save(tmp_path / "truth" / f"p{patient}.nii.gz", label())
    done = prepare(tmp_path / "source", tmp_path / "out", labels=tmp_path / "truth", labelled=1, dry_run=True)
    assert [c.id for c in done.cases] == [f"p{n}" for n in range(10)]


def test_classes_are_counted_when_not_named_and_label_values_are_bounded(source: Path) -> None:
    save(source / "labels/p4_a.nii.gz", label(3))
    done = prepare(source, source.parent / "x", labelled=1, dry_run=True)
    assert done.classes == ("background", "class_1", "class_2", "class_3")
    save(source / "labels/p5_a.nii.gz", label().astype(np.int16) * 300)
    save(source / "labels/p6_a.nii.gz", label().astype(np.int16) * -1)
    found = refused(source)
    assert [p.split(";")[0] for p in found] == [
        "case p5_a: label holds the values [300]",
        "case p6_a: label holds the values [-1]",
    ]
    assert "class name 'a' is given twice" in refused(source, classes=("a", "a"))[0]


def test_held_out_patients_are_drawn_among_those_with_labels(source: Path) -> None:
    """The common case: many scans, few labels. No scan without a label may land in validation or test."""
    for patient in range(6):
        (source / f"labels/p{patient}_a.nii.gz").unlink()
    for seed in range(8):
        done = prepare(source, source.parent / "x", labelled=1, seed=seed, dry_run=True)
        assert all(c.label for c in done.cases if c.split != "train" or c.labelled)
        assert len(done.select("train")) == 7
    assert "4 have that" in refused(source, labelled=2)[0]


def test_the_rule_for_patients(source: Path) -> None:
    for path in sorted(source.rglob("p*_a.nii.gz")):
        path.rename(path.with_name(f"heart_{path.name}"))
    assert any("--patient-pattern" in p for p in refused(source))
    done = prepare(source, source.parent / "x", labelled=1, patient_pattern=r"heart_(p\d)", dry_run=True)
    assert {c.patient for c in done.cases} == {f"p{n}" for n in range(10)}
    assert "exactly one group" in refused(source, patient_pattern="heart")[0]
    assert "not a regular expression" in refused(source, patient_pattern="(")[0]
    assert len([p for p in refused(source, patient_pattern="(liver)") if "does not match" in p]) == 10


def test_train_order_that_is_no_order(source: Path) -> None:
    rows = ["case,patient,split,train_order", "p0_a,p,train,1", "p1_a,p,train,2", "p2_a,q,train,first", "p3_a,r,test,"]
    found = refused(source, table=table(source, *rows))
    assert any(p.startswith("patient p has the train_order 1 and 2") for p in found)
    assert any(p.startswith("case p2_a: train_order is 'first'") for p in found)


def test_train_order_without_a_split_keeps_its_patients_in_train(source: Path) -> None:
    rows = ["case,patient,train_order", *(f"p{n}_a,p{n},{ {4: 1, 8: 2}.get(n, '') }" for n in range(10))]

    def drawn(seed: int) -> Dataset:
        return prepare(source, source.parent / "x", table=table(source, *rows), labelled=2, seed=seed, dry_run=True)

    assert all({c.id for c in drawn(s).select("train", labelled=True)} == {"p4_a", "p8_a"} for s in range(8))


def test_options_without_effect_and_labels_nobody_marked(source: Path) -> None:
    rows = ["case,patient,split,labelled", "p0_a,p0,train,no", "p1_a,p1,test,no"]
    found = refused(source, table=table(source, *rows), split=(0.7, 0.1, 0.2))
    assert "--split would have no effect" in found[0]
    assert "marks no training case" in refused(source, table=table(source, *rows), labelled=None)[0]
    assert "labelled is 2; allowed: 1 to 1" in refused(source, table=table(source, *rows), labelled=2)[0]
    assert "give --labelled K" in refused(source, labelled=None)[0]


def test_places_that_are_not_there(source: Path, tmp_path: Path) -> None:
    assert "no folder at" in refused(tmp_path / "nowhere")[0]
    assert "no folder of labels" in refused(source, labels=tmp_path / "nowhere")[0]
    assert "cannot be read as CSV" in refused(source, table=tmp_path / "nowhere.csv")[0]
    (tmp_path / "empty").mkdir()
    assert "is empty: no DICOM, NIfTI or NRRD file" in refused(tmp_path / "empty")[0]
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file"):
        prepare(source, tmp_path / "file", labelled=1)


def test_an_empty_label_is_a_finding_in_test_and_useless_in_training(source: Path) -> None:
    rows = ["case,patient,split,labelled", "p0_a,p0,train,yes", "p1_a,p1,test,no", "p2_a,p2,train,no"]
    save(source / "labels/p1_a.nii.gz", label(0))
    assert len(prepare(source, source.parent / "x", table=table(source, *rows), dry_run=True).cases) == 3
    save(source / "labels/p0_a.nii.gz", label(0))
    assert refused(source, table=table(source, *rows), labelled=None) == [
        "case p0_a: label is empty: every voxel is background; a labelled case needs foreground"
    ]
