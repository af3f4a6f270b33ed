"""Images and classes become a dataset: folders, tables, splits, private names, every problem at once."""

from __future__ import annotations

import csv
import importlib.util
import os
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from medkd.cli.app import run
from medkd.data.classification_dataset import read_classification_dataset
from medkd.data.image_files import png_bytes, read_image
from medkd.errors import InputError
from medkd.runs.prepare_classification import prepare_classification


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png_bytes(np.random.default_rng(seed).integers(0, 255, (9, 7), dtype=np.uint8)))


def folders(root: Path, each: int = 10, unlabelled: int = 0) -> Path:
    """ROOT/benign and ROOT/malignant hold files of equal names; two images a patient."""
    for k, kind in enumerate(("malignant", "benign")):
        for n in range(each):
            picture(root / kind / f"Miller{10 * k + n // 2}_{n:02d}.png", 100 * k + n)
    for n in range(unlabelled):
        picture(root / "unlabelled" / f"Nobody{n}_00.png", 1000 + n)
    return root


def table(root: Path, rows: list[list[str]]) -> Path:
    with (root / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return root / "table.csv"


def test_a_folder_a_class(tmp_path: Path) -> None:
    source = folders(tmp_path / "in", 20, unlabelled=3)
    data = prepare_classification(
        source, tmp_path / "out", split=(0.6, 0.2, 0.2), patient_pattern="([^_]+)", keep_identifiers=True, seed=3
    )
    assert data.classes == ("benign", "malignant")
    assert data.unit == "patient"
    assert len(data.cases) == 43
    splits = {split: {case.patient for case in data.select(split)} for split in ("train", "val", "test")}
    assert sum(map(len, splits.values())) == len(set.union(*splits.values())) == 23
    assert {case.patient for case in data.select("train", labelled=False)} == {"Nobody0", "Nobody1", "Nobody2"}
    for case in data.cases:
        if case.patient.startswith("Miller"):
            kind = "malignant" if int(case.patient.removeprefix("Miller")) < 10 else "benign"
            assert data.classes[data.truth(case)] == kind
            stored = source / kind / f"{case.id.removeprefix(kind + '_')}.png"
            np.testing.assert_array_equal(read_image(case.image), read_image(stored))


def test_the_classes_of_unlabelled_images_are_not_in_the_folder(tmp_path: Path) -> None:
    source = folders(tmp_path / "in", 20)
    data = prepare_classification(source, tmp_path / "out", labelled=8, split=(0.6, 0.2, 0.2), seed=1)
    hidden = data.select("train", labelled=False)
    assert len(data.select("train", labelled=True)) == 8
    assert len(hidden) == 16
    with (data.root / "cases.csv").open() as file:
        labels = {row["case"]: row["label"] for row in csv.DictReader(file)}
    assert {labels[case.id] for case in hidden} == {""}
    assert data.labels.keys() == {case.id for case in data.cases} - {case.id for case in hidden}


def test_private_names_tell_nobody_anything(tmp_path: Path) -> None:
    """Neither patient nor, in a name, the class."""
    data = prepare_classification(folders(tmp_path / "in"), tmp_path / "out", patient_pattern="([^_]+)", seed=2)
    for path in data.root.rglob("*"):
        assert "Miller" not in path.name
        assert "malignant" not in path.name
        if path.suffix in (".csv", ".json", ".yaml"):
            assert "Miller" not in path.read_text()
            assert str(tmp_path) not in path.read_text()
    assert "Miller" in (tmp_path / "out.private.csv").read_text()


def test_a_table_with_patients_splits_and_gaps(tmp_path: Path) -> None:
    for n in range(6):
        picture(tmp_path / "in" / "images" / f"i{n}.png", n)
    rows = [["image", "label", "patient", "split"]]
    rows += [[f"i{n}.png", "ab"[n % 2], f"p{n}", split] for n, split in enumerate(("train", "train", "val", "test"))]
    path = table(tmp_path, [*rows, ["i4.png", "", "p4", "train"], ["i5", "", "p5", "train"]])
    data = prepare_classification(tmp_path / "in", tmp_path / "out", table=path, keep_identifiers=True)
    assert [case.split for case in data.cases] == ["train", "train", "val", "test", "train", "train"]
    assert [case.labelled for case in data.cases] == [True, True, True, True, False, False]
    assert data.labels == {"i0": 0, "i1": 1, "i2": 0, "i3": 1}
    assert read_classification_dataset(tmp_path / "out") == data


def test_every_problem_at_once(tmp_path: Path) -> None:
    for n in range(5):
        picture(tmp_path / "in" / f"i{n}.png", n)
    Image.new("L", (8, 8)).save(tmp_path / "in" / "i5.png")
    rows = [["image", "label", "patient", "split"], ["i0", "a", "p", "train"], ["i1", "b", "p", "train"],
            ["i2", "c", "q", "val"], ["i3", "", "r", "test"], ["i4", "a", "p", "test"], ["i5", "a", "s", "train"],
            ["i9", "a", "s", "train"]]  # fmt: skip
    with pytest.raises(InputError) as caught:
        prepare_classification(tmp_path / "in", tmp_path / "out", table=table(tmp_path, rows), classes=("a", "b"))
    text = "\n".join(caught.value.problems)
    for words in ("'i9' of the table: no such image", "class 'c'; allowed: a, b", "image i5: it is empty",
                  "patient p is in test and train"):  # fmt: skip
        assert words in text
    assert not (tmp_path / "out").exists()


def test_other_mistakes(tmp_path: Path) -> None:
    source = folders(tmp_path / "in")
    twice = table(tmp_path, [["image", "label"], ["a", "x"], ["a", "y"]])
    with pytest.raises(InputError, match="listed twice"):
        prepare_classification(source, tmp_path / "out", table=twice)
    with pytest.raises(InputError, match="no labelled training image is of the class malignant"):
        prepare_classification(source, tmp_path / "out", classes=("malignant", "benign"), labelled=1, seed=0)
    picture(source / "alone.png", 5)
    with pytest.raises(InputError, match="lies in no folder of a class"):
        prepare_classification(source, tmp_path / "out")


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = str(folders(tmp_path / "in"))
    arguments = ["prepare", source, "--task", "classification", "--out", str(tmp_path / "out")]
    assert run([*arguments, "--channels", "a,b"]) == 2
    assert "--channels and the options of DICOM archives have no effect on classification" in capsys.readouterr().err
    assert run([*arguments, "--boxes", "b.csv"]) == 2
    assert "--boxes has no effect on classification" in capsys.readouterr().err
    assert run([*arguments, "--seed", "1"]) == 0
    assert "private:" in capsys.readouterr().out
    assert len(read_classification_dataset(tmp_path / "out").cases) == 20


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[2] / "data_prep" / f"{name}.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = script("digits").prepare_digits(tmp_path / "out", labelled=100)
    assert len(data.cases) == 1797
    assert len(data.select("train", labelled=True)) == 100
    images, labels = load_digits(return_X_y=True)
    for case in data.select("test")[:40]:
        number = int(case.id.removeprefix("digit"))
        assert data.classes[data.truth(case)] == str(labels[number])
        stored = read_image(case.image).astype(float) * 16 / 255
        np.testing.assert_allclose(stored, images[number].reshape(8, 8), atol=0.04)


def test_a_crop_stays_in_the_picture() -> None:
    pixels = np.arange(40 * 60 * 3, dtype=np.uint32).reshape(40, 60, 3)
    cut = script("blood_cell_crops").cut
    np.testing.assert_array_equal(cut(pixels, (20, 10, 30, 20)), pixels[9:21, 19:31])  # 12 pixels about (25, 15)
    np.testing.assert_array_equal(cut(pixels, (0, 0, 10, 10)), pixels[:12, :12])
    np.testing.assert_array_equal(cut(pixels, (55, 20, 60, 40)), pixels[16:, 36:])  # 24 about (57.5, 30), moved in
    assert cut(pixels, (0, 0, 60, 40)).shape == (40, 40, 3)


@pytest.mark.slow
@pytest.mark.skipif("MEDKD_DATA" not in os.environ, reason="MEDKD_DATA names no folder of real data")
def test_cells_of_a_smear_are_in_one_split(tmp_path: Path) -> None:
    source = Path(os.environ["MEDKD_DATA"]) / "blood_cells"
    data = script("blood_cell_crops").prepare_crops(source, "bccd", tmp_path / "out", labelled=20, most=1)
    assert data.unit == "image"
    assert [len({c.patient for c in data.select(s)}) for s in ("train", "val", "test")] == [150, 44, 27]
    assert len({case.patient for case in data.cases}) == 221
    assert len({case.patient for case in data.select("train", labelled=True)}) == 20
