"""The dataset folder for detection: what is written is read again, and hidden boxes stay closed (card item 19)."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from medkd.data import detection_dataset
from medkd.data import image_arrays as image_arrays_module
from medkd.data.detection_dataset import (
    ANNOTATIONS,
    HIDDEN,
    Boxes,
    DetectionDataset,
    read_detection_dataset,
    read_hidden_boxes,
    write_detection_dataset,
)
from medkd.data.detection_options import DetectionAugment
from medkd.data.detection_streams import DetectionStream
from medkd.data.image_arrays import image_arrays
from medkd.data.image_cases import ImageCase
from medkd.data.image_files import png_bytes
from medkd.data.image_options import ImagePreprocess
from medkd.data.image_preprocess import read_pixels
from medkd.errors import InputError

ROLES = [("a", "train", True), ("b", "train", False), ("c", "val", True), ("d", "test", True)]


def boxes(*rows: tuple[float, float, float, float, int]) -> Boxes:
    values = np.array(rows, np.float32).reshape(-1, 5)
    return Boxes(values[:, :4], values[:, 4].astype(np.int64))


def write(root: Path) -> DetectionDataset:
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    cases = []
    for name, split, labelled in ROLES:
        path = root / "images" / f"{name}.png"
        path.write_bytes(png_bytes(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)))
        cases.append(ImageCase(name, f"patient {name}", split, labelled, path, None, (20, 30)))
    seen = {"a": boxes((1, 2, 11, 8, 0), (0, 0, 30, 20, 1)), "c": boxes(), "d": boxes((3.5, 2.25, 9, 8, 1))}
    dataset = DetectionDataset(root, ("red", "green", "blue"), ("cell", "nodule"), "patient", tuple(cases), seen)
    write_detection_dataset(dataset, {"licence": "none"}, {"b": boxes((4, 4, 6, 6, 1))})
    return dataset


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    written, found = write(tmp_path / "data"), read_detection_dataset(tmp_path / "data")
    assert replace(found, boxes={}) == replace(written, boxes={})
    assert found.boxes.keys() == {"a", "c", "d"}
    for name, truth in found.boxes.items():
        np.testing.assert_array_equal(truth.boxes, written.boxes[name].boxes)
        np.testing.assert_array_equal(truth.labels, written.boxes[name].labels)
    assert read_hidden_boxes(found)["b"].boxes.tolist() == [[4, 4, 6, 6]]


def test_hidden_boxes_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading, and training on unlabelled images, with every file of hidden boxes under alarm; and without any."""
    root = write(tmp_path / "data").root
    opened: list[str] = []
    read = Path.read_text
    monkeypatch.setattr(Path, "read_text", lambda self, *a, **k: (opened.append(self.name), read(self, *a, **k))[1])
    dataset = read_detection_dataset(root)
    assert ANNOTATIONS in opened
    assert HIDDEN not in opened
    opened.clear()
    blind = read_detection_dataset(root, annotations=False)
    assert not {ANNOTATIONS, HIDDEN} & set(opened)
    assert blind.boxes == {}
    (root / HIDDEN).write_text("this is no JSON")
    assert read_detection_dataset(root).boxes.keys() == dataset.boxes.keys()


def test_nothing_that_trains_reads_hidden_boxes() -> None:
    """Only experiments, for diagnosis and for an oracle that says it is one, may name the function."""
    package = Path(detection_dataset.__file__).parents[1]
    users = [p.relative_to(package) for p in package.rglob("*.py") if "read_hidden_boxes" in p.read_text()]
    assert {p.parts[0] for p in users if p.name != "detection_dataset.py"} <= {"claims"}


class Alarm(Mapping[str, Boxes]):
    """Boxes that may not be touched."""

    def __getitem__(self, key: str) -> Boxes:
        raise AssertionError(f"the boxes of {key} were read")

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("boxes were listed")

    def __len__(self) -> int:
        raise AssertionError("boxes were counted")


def test_an_unlabelled_stream_needs_no_boxes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Item 19: a dataset whose boxes raise still gives batches; and only images of its own folder are opened."""
    opened: list[Path] = []
    monkeypatch.setattr(image_arrays_module, "read_pixels", lambda path, _: (opened.append(path), read_pixels(path))[1])
    dataset = replace(read_detection_dataset(write(tmp_path / "data").root), boxes=Alarm())
    arrays = image_arrays(dataset.root, dataset.select("train", labelled=False), ImagePreprocess(size=(32, 32)))
    stream = DetectionStream(arrays, "unlabelled", 2, DetectionAugment(), 0, torch.device("cpu"))
    batch = stream.batch(3)
    assert opened == [dataset.root / "images" / "b.png"]
    assert batch.label is None
    assert batch.case_ids == ("b", "b")
    with pytest.raises(AssertionError, match="boxes of b"):
        replace(stream, truth=dataset).batch(3)


def test_the_truth_of_an_unlabelled_case_is_refused(tmp_path: Path) -> None:
    dataset = read_detection_dataset(write(tmp_path / "data").root)
    with pytest.raises(InputError, match=r"case b .split train, labelled no. has no boxes that may be read"):
        dataset.truth(dataset.select("train", labelled=False)[0])


def test_a_leak_in_the_open_file_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path / "data").root
    content = json.loads((root / ANNOTATIONS).read_text())
    content["images"].append({"id": 99, "file_name": "images/b.png", "case": "b", "width": 30, "height": 20})
    (root / ANNOTATIONS).write_text(json.dumps(content))
    with pytest.raises(InputError, match="holds case b, whose boxes it must not hold"):
        read_detection_dataset(root)


def test_every_problem_of_a_folder_at_once(tmp_path: Path) -> None:
    root = write(tmp_path / "data").root
    table = (root / "cases.csv").read_text()
    (root / "cases.csv").write_text(table.replace("a,patient a,train,yes", "a,patient d,train,maybe"))
    (root / "images" / "c.png").unlink()
    with pytest.raises(InputError) as error:
        read_detection_dataset(root)
    assert "labelled is 'maybe'" in str(error.value)
    assert "no file images/c.png" in str(error.value)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ((5, 5, 5, 9, 0), "no size"),
        ((5, 5, 31, 9, 0), "outside the image of 30 x 20"),
        ((5, 5, np.nan, 9, 0), "not finite"),
        ((5, 5, 9, 9, 2), "allowed: 0 to 1"),
    ],
)
def test_bad_boxes(row: tuple[float, float, float, float, int], words: str) -> None:
    assert words in "; ".join(detection_dataset.box_problems(boxes(row), (20, 30), 2))
