from __future__ import annotations

import csv
import json
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import medkd.runs.prepare_write as module
from medkd.data.dataset import read_dataset
from medkd.errors import InputError
from medkd.imaging.nifti import read_nifti
from medkd.runs.prepare import prepare as with_private_names

prepare = partial(with_private_names, keep_identifiers=True)  # tests read the names back
SHAPE = (10, 8, 3)
CLASSES = ("background", "organ")


def save(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.5, 1.5, 8.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([*spacing, 1.0]))
    image.header.set_xyzt_units("mm")
    image.header["descrip"] = b"SECRET NAME"
    nib.save(image, path)


def image(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 500, SHAPE).astype(np.int16)


def label(value: float = 1, dtype: type = np.uint8) -> np.ndarray:
    array = np.zeros(SHAPE, dtype)
    array[2:6, 2:6] = value
    return array


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Ten patients, two scans each."""
    for patient in range(10):
        for scan in "ab":
            save(tmp_path / "source/images" / f"p{patient}_{scan}.nii.gz", image(patient))
            save(tmp_path / "source/labels" / f"p{patient}_{scan}.nii.gz", label())
    return tmp_path / "source"


def write_table(path: Path, rows: list[dict[str, object]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_a_folder_becomes_a_dataset(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    done = prepare(source, out, classes=CLASSES, labelled=2, split=(0.5, 0.2, 0.3))
    again = read_dataset(out)
    assert again == done
    assert [len({c.patient for c in done.select(s)}) for s in ("train", "val", "test")] == [5, 2, 3]
    chosen = {c.patient for c in done.select("train", labelled=True)}
    assert len(chosen) == 2
    assert all(len({c.split for c in done.cases if c.patient == p}) == 1 for p in {c.patient for c in done.cases})
    for case in done.cases:
        original = read_nifti(source / "images" / f"{case.id}.nii.gz")
        written = read_nifti(case.images[0])
        assert np.array_equal(written.array, original.array)
        assert written.array.dtype == original.array.dtype
        assert np.array_equal(written.affine, original.affine)
        assert case.spacing == (1.5, 1.5, 8)
        assert case.shape == SHAPE
    assert sorted(p.name for p in out.iterdir()) == [
        "cases.csv", "dataset.yaml", "images", "labels", "report.html", "report.json",
    ]  # fmt: skip
    assert json.loads((out / "report.json").read_text())["labelled"] == 4
    assert not [p for p in out.rglob("*") if p.is_file() and b"SECRET" in p.read_bytes()]
    assert str(source) not in (out / "cases.csv").read_text() + (out / "report.json").read_text()


def test_a_split_is_a_function_of_its_seed(source: Path, tmp_path: Path) -> None:
    def split(seed: int) -> str:
        return prepare(source, tmp_path / "x", classes=CLASSES, labelled=2, seed=seed, dry_run=True).fingerprint

    assert split(0) == split(0)
    assert len({split(s) for s in range(6)}) > 3
    assert not (tmp_path / "x").exists()


def test_a_table_decides(source: Path, tmp_path: Path) -> None:
    rows = [
        {"case": f"p{p}_a", "patient": f"p{p}", "split": s, "train_order": o}
        for p, s, o in ((0, "train", 2), (1, "train", 1), (2, "train", 3), (3, "val", ""), (4, "test", ""))
    ]
    table = write_table(tmp_path / "t.csv", rows)
    done = prepare(source, tmp_path / "dataset", table=table, classes=CLASSES, labelled=2)
    assert len(done.cases) == 5  # files that the table does not name are left out
    assert {c.patient for c in done.select("train", labelled=True)} == {"p0", "p1"}
    marked = [row | {"labelled": "yes" if row["case"] == "p2_a" else "no"} for row in rows]
    done = prepare(source, tmp_path / "other", table=write_table(tmp_path / "u.csv", marked), classes=CLASSES)
    assert {c.patient for c in done.select("train", labelled=True)} == {"p2"}


def test_two_channels_and_unlabelled_cases_without_labels(tmp_path: Path) -> None:
    rows = []
    for number, split in enumerate(("train", "train", "val", "test")):
        for channel in range(2):
            save(tmp_path / "source/images" / f"p{number}_{channel:04d}.nii.gz", image(2 * number + channel))
        if number != 1:
            save(tmp_path / "source/labels" / f"p{number}.nii.gz", label())
        rows.append(
            {"case": f"p{number}", "patient": f"p{number}", "split": split, "labelled": "no" if number == 1 else "yes"}
        )
    table = write_table(tmp_path / "t.csv", rows)
    done = prepare(tmp_path / "source", tmp_path / "dataset", table=table, classes=CLASSES, channels=("t1", "t2"))
    again = read_dataset(tmp_path / "dataset")
    assert again.channels == ("t1", "t2")
    assert [len(c.images) for c in again.cases] == [2] * 4
    assert again.cases[1].label is None
    assert np.array_equal(read_nifti(done.cases[2].images[1]).array, image(5))


def problems(source: Path, tmp_path: Path, **values: object) -> list[str]:
    with pytest.raises(InputError) as caught:
        prepare(source, tmp_path / "dataset", **({"classes": CLASSES, "labelled": 2} | values))
    assert not (tmp_path / "dataset").exists()
    return caught.value.problems


def test_every_problem_of_every_case_in_one_list(source: Path, tmp_path: Path) -> None:
    images, labels = source / "images", source / "labels"
    save(labels / "p0_a.nii.gz", label(5))
    save(labels / "p0_b.nii.gz", label(0.5, np.float32))
    save(labels / "p1_a.nii.gz", label(0))
    save(labels / "p1_b.nii.gz", label(), (1.5, 1.5, 7.0))
    save(labels / "p2_a.nii.gz", label()[:9])
    (labels / "p2_b.nii.gz").write_bytes(b"x")
    (images / "p3_a.nii.gz").write_bytes((images / "p3_a.nii.gz").read_bytes()[:-40])
    save(images / "p3_b.nii.gz", np.full(SHAPE, 7, np.int16))
    save(images / "p4_a.nii.gz", np.full(SHAPE, np.nan, np.float32))
    save(images / "p4_b.nii.gz", np.zeros((4, 4, 4, 3), np.int16))
    done = problems(
        source, tmp_path, table=write_table(tmp_path / "t.csv", [
            {"case": f"p{p}_{s}", "patient": f"p{p}", "split": "test" if p else "train", "labelled": "yes"}
            for p in range(5) for s in "ab"
        ]), labelled=None,
    )  # fmt: skip
    expected = {
        "p0_a": "label holds the values [5]; allowed: 0 to 1 for background, organ",
        "p0_b": "not whole numbers",
        "p1_a": "label is empty",
        "p1_b": "voxel size (1.5, 1.5, 8) against (1.5, 1.5, 7)",
        "p2_a": "shape (10, 8, 3) against (9, 8, 3)",
        "p2_b": "label: p2_b.nii.gz cannot be read",
        "p3_a": "p3_a.nii.gz cannot be read",
        "p3_b": "is empty: every voxel is 7",
        "p4_a": "not finite",
        "p4_b": "4-D",
    }
    for case, words in expected.items():
        assert any(p.startswith(f"case {case}: ") and words in p for p in done), (case, done)


def test_floats_that_are_whole_are_labels(source: Path, tmp_path: Path) -> None:
    save(source / "labels/p0_a.nii.gz", label(1, np.float64))
    done = prepare(source, tmp_path / "dataset", classes=CLASSES, labelled=2)
    written = read_nifti(next(c.label for c in done.cases if c.id == "p0_a")).array
    assert written.dtype == np.uint8
    assert np.array_equal(written, label())


def test_splits_that_cannot_be(source: Path, tmp_path: Path) -> None:
    leak = [{"case": f"p{p}_{s}", "patient": f"p{p}", "split": "train" if s == "a" else "test", "labelled": "yes"}
            for p in range(2) for s in "ab"]  # fmt: skip
    found = problems(source, tmp_path, table=write_table(tmp_path / "t.csv", leak), labelled=None)
    assert found == [f"patient p{p} is in test and train; all scans of a patient go in one split" for p in range(2)]
    wrong = [row | {"split": "training"} for row in leak]
    assert "allowed: train, val, test" in problems(source, tmp_path, table=write_table(tmp_path / "u.csv", wrong))[0]
    assert "listed twice" in problems(source, tmp_path, table=write_table(tmp_path / "v.csv", [leak[0], leak[0]]))[0]
    assert "labelled is 9; allowed: 1 to 7" in problems(source, tmp_path, labelled=9)[0]
    assert "sum to 1" in problems(source, tmp_path, split=(0.5, 0.5, 0.5))[0]
    assert "column labelled" in problems(
        source, tmp_path, labelled=None,
        table=write_table(tmp_path / "w.csv", [{k: v for k, v in r.items() if k != "labelled"} for r in leak[:1]]),
    )[0]  # fmt: skip


def test_an_interrupted_prepare_continues(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = prepare(source, tmp_path / "whole", classes=CLASSES, labelled=2)
    writes = 0
    original = module.write_nifti

    def fail_at_nine(path: Path, *more: object, **values: object) -> None:
        nonlocal writes
        writes += 1
        if writes == 9:
            (path.parent / f".{path.name}.partial.nii.gz").write_bytes(b"half")
            raise KeyboardInterrupt
        original(path, *more, **values)

    monkeypatch.setattr(module, "write_nifti", fail_at_nine)
    with pytest.raises(KeyboardInterrupt):
        prepare(source, tmp_path / "dataset", classes=CLASSES, labelled=2)
    assert not (tmp_path / "dataset/dataset.yaml").exists()
    with pytest.raises(InputError, match="no dataset at"):
        read_dataset(tmp_path / "dataset")
    monkeypatch.setattr(module, "write_nifti", original)
    with pytest.raises(InputError, match="unfinished dataset of another source"):
        prepare(source, tmp_path / "dataset", classes=CLASSES, labelled=3)
    prepare(source, tmp_path / "dataset", classes=CLASSES, labelled=2)
    for case in whole.cases:
        for path in (*case.images, case.label):
            twin = tmp_path / "dataset" / path.relative_to(tmp_path / "whole")
            assert np.array_equal(read_nifti(twin).array, read_nifti(path).array)
    assert not list((tmp_path / "dataset").rglob("*partial*"))
    assert not list((tmp_path / "dataset").glob(".prepare*"))


def test_folders_that_are_taken(source: Path, tmp_path: Path) -> None:
    prepare(source, tmp_path / "dataset", classes=CLASSES, labelled=2)
    with pytest.raises(InputError, match="already holds a dataset"):
        prepare(source, tmp_path / "dataset", classes=CLASSES, labelled=2)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="did not write"):
        prepare(source, tmp_path / "mine", classes=CLASSES, labelled=2)
    assert (tmp_path / "mine/thesis.txt").exists()


def test_a_dataset_folder_that_was_changed_by_hand(source: Path, tmp_path: Path) -> None:
    out = tmp_path / "dataset"
    done = prepare(source, out, classes=CLASSES, labelled=2)
    done.cases[0].images[0].unlink()
    with pytest.raises(InputError, match="no file images/p0_a"):
        read_dataset(out)
    text = (out / "cases.csv").read_text()
    (out / "cases.csv").write_text(text.replace("case,patient,split", "case,patient,set"))
    with pytest.raises(InputError, match="lacks the columns split"):
        read_dataset(out)
