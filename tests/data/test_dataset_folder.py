from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from medkd.data.dataset import Case, Dataset, read_dataset, write_dataset
from medkd.errors import InputError


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    cases = []
    for number, split in enumerate(("train", "train", "val", "test")):
        paths = [tmp_path / "images" / f"ä{number}_{c}.nii.gz" for c in range(2)]
        label = tmp_path / "labels" / f"ä{number}.nii.gz" if number != 1 else None
        for path in (*paths, *([label] if label else [])):
            path.parent.mkdir(exist_ok=True)
            path.touch()
        spacing = (1.5, 1.5, 8.0) if number else None
        cases.append(Case(f"ä{number}", f"p,{number}", split, number == 0, tuple(paths), label, spacing, (10, 8, 3)))
    done = Dataset(tmp_path, "segmentation", ("t1", "t2"), ("background", "organ"), tuple(cases))
    write_dataset(done, {"licence": "ours"})
    return done


def test_what_is_written_is_what_is_read(dataset: Dataset) -> None:
    assert read_dataset(dataset.root) == dataset
    text = (dataset.root / "dataset.yaml").read_text(encoding="utf-8")
    assert "spacing_unit: unknown" in text  # one case of unknown spacing is enough
    assert "licence: ours" in text
    assert not list(dataset.root.glob(".*"))


def test_known_spacing_is_in_mm(dataset: Dataset) -> None:
    write_dataset(replace(dataset, cases=dataset.cases[1:]), {})
    assert "spacing_unit: mm" in (dataset.root / "dataset.yaml").read_text()


def test_every_problem_of_a_table_at_once(dataset: Dataset) -> None:
    """One row is wrong in each way; nothing of it is a traceback, and no path outside the folder is followed."""
    path = dataset.root / "cases.csv"
    head = "case,patient,split,labelled,image_t1,image_t2,label,spacing,shape"
    good = "images/ä0_0.nii.gz,images/ä0_1.nii.gz,labels/ä0.nii.gz"
    rows = {
        "a,p,train,maybe," + good + ",unknown,3x3x3": "case a: labelled is 'maybe'; allowed: yes, no",
        "b,p,train,no," + good + ",fast,3x3x3": "case b: spacing is 'fast'",
        "c,p,train,no," + good + ",1x1x-1,3x3x3": "case c: spacing is '1x1x-1'",
        "d,p,train,no," + good + ",unknown,3x3": "case d: shape is '3x3'",
        "e,p,train,no,../x.nii.gz,images/ä0_1.nii.gz,,unknown,3x3x3": "case e: image_t1 is '../x.nii.gz', outside",
        "f,p,train,no,/etc/passwd,images/ä0_1.nii.gz,,unknown,3x3x3": "case f: image_t1 is '/etc/passwd', outside",
        "g,p,train,no,images/ä0_0.nii.gz,,,unknown,3x3x3": "case g: image_t2 is empty",
        "h,,train,no," + good + ",unknown,3x3x3": "case h: patient is empty",
        "i,q,training,no," + good + ",unknown,3x3x3": "case i: split is 'training'",
        "j,r,val,no,images/ä0_0.nii.gz,images/ä0_1.nii.gz,,unknown,3x3x3": "case j (split val) has no label",
        "k,s,train,no,images/no.nii.gz,images/ä0_1.nii.gz,,unknown,3x3x3": "case k: no file images/no.nii.gz",
        "l,t,train,no," + good + ",unknown,3x3x3": "patient t is in test and train",
        "m,t,test,no," + good + ",unknown,3x3x3": "patient t is in test and train",
        "n,u,train,no," + good + ",unknown,3x3x3\nn,u,train,no," + good + ",unknown,3x3x3": "case n is listed twice",
        "o,v": "case o: shape is ''",
    }
    path.write_text("\n".join([head, *rows]), encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_dataset(dataset.root)
    for words in rows.values():
        assert any(p.startswith(words) for p in caught.value.problems), (words, caught.value.problems)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("dataset.yaml", b"task: segmentation", "needs task, channels and classes"),
        ("dataset.yaml", b"task: [", "needs task, channels and classes"),
        ("dataset.yaml", b"{task: s, channels: [t1, t1], classes: [a, b]}", "channel name 't1' is given twice"),
        ("dataset.yaml", b"{task: s, channels: [t1, t2], classes: []}", "class names are"),
        ("cases.csv", b"", "lacks the columns case"),
        ("cases.csv", b"case;patient;split", "separated by commas"),
        ("cases.csv", b"case,patient\n\xff\xfe", "cannot be read as CSV in UTF-8"),
        ("cases.csv", b"case,patient,split,labelled,image_t1,image_t2,label,spacing,shape\n", "has no rows"),
    ],
)
def test_files_that_are_not_a_dataset(dataset: Dataset, name: str, content: bytes, words: str) -> None:
    (dataset.root / name).write_bytes(content)
    with pytest.raises(InputError, match=words):
        read_dataset(dataset.root)
