"""Images and boxes become a dataset: joins, splits, hidden boxes, private names, every problem at once."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medkd.cli.app import run
from medkd.data.detection_dataset import (
    HIDDEN,
    Boxes,
    DetectionDataset,
    read_detection_dataset,
    read_hidden_boxes,
)
from medkd.data.image_cases import ImageCase
from medkd.data.image_files import read_image, strip_jpeg
from medkd.errors import InputError
from medkd.imaging.nifti import write_nifti
from medkd.runs.prepare_detection import prepare_detection
from medkd.runs.prepare_detection_report import box_table, boxed, through


def source(folder: Path, number: int = 10, patients: int = 10) -> Path:
    """Grey 16-bit PNGs PATIENT_VIEW.png with one box each, but the last without; and boxes.csv."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    with (folder / "boxes.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["image", "label", "xmin", "ymin", "xmax", "ymax"])
        for n in range(number):
            name = f"Miller{n % patients}_{n:02d}"
            pixels = rng.integers(0, 4000, (40, 30)).astype(np.uint16)
            Image.fromarray(pixels).save(folder / "images" / f"{name}.png")
            table.writerow([f"{name}.png", *(["mass", 2, 3, 10 + n, 30] if n < number - 1 else [""] * 5)])
    return folder


def test_splits_by_patient_and_hides_boxes(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", 20, 10)
    data = prepare_detection(
        folder, tmp_path / "out", boxes=folder / "boxes.csv", labelled=3, patient_pattern="([^_]+)", seed=1
    )
    assert data.unit == "patient"
    assert [len({c.patient for c in data.select(s)}) for s in ("train", "val", "test")] == [7, 1, 2]
    assert len({c.patient for c in data.select("train", labelled=True)}) == 3
    hidden = read_hidden_boxes(data)
    assert hidden.keys() == {c.id for c in data.select("train", labelled=False)}
    assert len(hidden) == 8
    assert sum(len(b) for b in (*hidden.values(), *data.boxes.values())) == 19
    assert data.classes == ("mass",)
    assert read_image(data.cases[0].image).dtype == np.uint16


def test_the_page_counts_and_draws_what_may_be_read(tmp_path: Path) -> None:
    folder = source(tmp_path / "in", 12, 12)
    data = prepare_detection(folder, tmp_path / "out", boxes=folder / "boxes.csv", labelled=3, split=(0.5, 0.25, 0.25))
    headers, rows = box_table(data)
    counts = dict(zip(headers, rows[0]))
    assert counts["class"] == "mass"
    assert counts["boxes, train"] == sum(len(data.truth(c)) for c in data.select("train", labelled=True)) <= 3
    assert counts["boxes, val"] == sum(len(data.truth(c)) for c in data.select("val"))
    assert sum(len(b) for b in data.boxes.values()) == sum(counts[f"boxes, {s}"] for s in ("train", "val", "test"))
    page = (data.root / "report.html").read_text()
    assert page.count("data:image/png") == 1
    assert "unlabelled training images whose boxes are kept apart" in page
    secret = data.select("train", labelled=False)[0]
    assert boxed(data, secret).truth is None  # hidden boxes are not drawn
    known = data.select("val")[0]
    assert boxed(data, known).truth.tolist() == data.truth(known).boxes.tolist()


def test_a_thumbnail_keeps_boxes_in_their_place_and_a_volume_shows_the_slice_of_a_box(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    wide = np.zeros((300, 900), np.uint8)
    wide[60:90, 600:720] = 200
    Image.fromarray(wide).save(tmp_path / "images" / "wide.png")
    case = ImageCase("wide", "wide", "val", True, tmp_path / "images" / "wide.png", None, (300, 900))
    boxes = Boxes(np.array([[600, 60, 720, 90]], np.float32), np.array([0]))
    made = boxed(DetectionDataset(tmp_path, ("image",), ("mass",), "image", (case,), {"wide": boxes}), case)
    assert made.image.shape[:2] == (100, 300)
    x0, y0, x1, y1 = made.truth[0].astype(int)
    assert (made.image[y0:y1, x0:x1] == 200).all()
    assert made.image.sum() == made.image[y0:y1, x0:x1].sum()
    volume = np.zeros((10, 12, 8))
    volume[2:5, 6:9, 3:6] = 1.0
    known = Boxes(np.array([[2, 6, 3, 5, 9, 6], [0, 0, 0, 2, 2, 1]], np.float32), np.array([1, 0]))
    plane, flat, labels = through(volume, known)
    assert plane.shape == (12, 10)
    assert flat.tolist() == [[2, 6, 5, 9]]
    assert labels.tolist() == [1]
    assert plane[6:9, 2:5].all()
    assert plane.sum() == 9


def test_private_names_tell_nobody_anything(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    prepare_detection(folder, tmp_path / "out", boxes=folder / "boxes.csv", patient_pattern="([^_]+)")
    for path in (tmp_path / "out").rglob("*"):
        assert "Miller" not in path.name
        if path.suffix in (".csv", ".json", ".yaml", ".html"):
            assert "Miller" not in path.read_text()
            assert str(tmp_path) not in path.read_text()
    assert "Miller" in (tmp_path / "out.private.csv").read_text()


def test_pixels_are_kept_and_texts_are_not(tmp_path: Path) -> None:
    """JPEG bytes are not coded anew, EXIF and comments go; also of progressive files with several scans."""
    folder = tmp_path / "in"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 255, (33, 47, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x013B] = "Doctor Miller"
    for name, progressive in (("a", False), ("b", True)):
        Image.fromarray(pixels).save(
            folder / f"{name}.jpg", exif=exif, comment=b"Miller", progressive=progressive, restart_marker_rows=1
        )
        assert b"Miller" in (folder / f"{name}.jpg").read_bytes()
    data = prepare_detection(folder, tmp_path / "out", keep_identifiers=True)
    for case in data.cases:
        assert b"Miller" not in case.image.read_bytes()
        np.testing.assert_array_equal(read_image(case.image), read_image(folder / case.image.name))
    with pytest.raises(InputError, match="cut short"):
        strip_jpeg((folder / "b.jpg").read_bytes()[:-200])


def test_turned_and_transparent_pictures_are_refused(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("L", (8, 8)).save(tmp_path / "turned.jpg", exif=exif)
    Image.new("RGBA", (8, 8), (1, 2, 3, 9)).save(tmp_path / "clear.png")
    Image.new("P", (8, 8)).save(tmp_path / "palette.png")
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n123")
    expected = {"turned.jpg": "EXIF", "clear.png": "transparent", "palette.png": "mode P", "broken.png": "PNG"}
    for name, words in expected.items():
        with pytest.raises(InputError, match=words):
            read_image(tmp_path / name)


def test_only_images(tmp_path: Path) -> None:
    """A target of which nobody drew a box: all for training, unlabelled, and no hidden file."""
    folder = source(tmp_path / "in")
    data = prepare_detection(folder, tmp_path / "out", classes=("mass",), labelled="none", keep_identifiers=True)
    assert len(data.select("train", labelled=False)) == 10
    assert data.boxes == {}
    assert not (data.root / HIDDEN).exists()
    assert data.unit == "image"


def test_one_entry_less_shifts_nobody(tmp_path: Path) -> None:
    """Card item 15: boxes are joined by the name of the image; leaving one out changes no other."""
    folder = source(tmp_path / "in")
    whole = prepare_detection(
        folder, tmp_path / "all", boxes=folder / "boxes.csv", keep_identifiers=True, split=(1, 0, 0)
    )
    lines = (folder / "boxes.csv").read_text().splitlines()
    (folder / "less.csv").write_text("\n".join([lines[0], *reversed(lines[1:4] + lines[5:])]))
    less = prepare_detection(
        folder, tmp_path / "less", boxes=folder / "less.csv", keep_identifiers=True, split=(1, 0, 0)
    )
    assert len(less.boxes) == len(whole.boxes) - 1
    for name, boxes in less.boxes.items():
        np.testing.assert_array_equal(boxes.boxes, whole.boxes[name].boxes)


def test_volumes(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "images").mkdir(parents=True)
    volume = np.random.default_rng(0).integers(-1000, 400, (12, 10, 8)).astype(np.int16)
    for name in "ab":
        write_nifti(folder / "images" / f"{name}.nii.gz", volume, np.diag([0.7, 0.7, 1.25, 1]))
    (folder / "boxes.csv").write_text(
        "image,split,label,xmin,ymin,zmin,xmax,ymax,zmax\na.nii.gz,train,nodule,1,2,3,4,5,6\nb.nii.gz,test,,,,,,,\n"
    )
    data = prepare_detection(folder, tmp_path / "out", boxes=folder / "boxes.csv", keep_identifiers=True)
    assert data.cases[0].shape == (12, 10, 8)
    assert data.cases[0].spacing == pytest.approx((0.7, 0.7, 1.25))
    assert data.boxes["a"].boxes.tolist() == [[1, 2, 3, 4, 5, 6]]
    assert read_detection_dataset(data.root).boxes.keys() == data.boxes.keys()


def test_every_problem_at_once(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    content = {
        "images": [
            {"id": 1, "file_name": "Miller0_00.png", "width": 99, "height": 40},
            {"id": 2, "file_name": "Miller1_01.png"},
            {"id": 3, "file_name": "nobody.png"},
        ],
        "annotations": [{"id": 1, "image_id": 2, "category_id": 1, "bbox": [0, 0, 31, 5]}],
        "categories": [{"id": 1, "name": "mass"}],
    }
    (folder / "boxes.json").write_text(json.dumps(content))
    (folder / "images" / "extra.png").write_bytes(b"nothing")
    with pytest.raises(InputError) as error:
        prepare_detection(folder, tmp_path / "out", boxes=folder / "boxes.json", split=(1, 0, 0))
    text = str(error.value)
    for part in ("'nobody.png'", "99 x 40", "outside the image", "image extra"):
        assert part in text
    assert not (tmp_path / "out").exists()


def test_a_finished_dataset_is_not_overwritten(tmp_path: Path) -> None:
    folder = source(tmp_path / "in")
    prepare_detection(folder, tmp_path / "out", keep_identifiers=True)
    with pytest.raises(InputError, match="already holds a dataset"):
        prepare_detection(folder, tmp_path / "out", keep_identifiers=True)


@pytest.mark.skipif("MEDKD_DATA" not in os.environ, reason="MEDKD_DATA names no folder of real data")
def test_blood_cells(tmp_path: Path) -> None:
    """The counts of the release, and that the target's training boxes are hidden."""
    from importlib.util import module_from_spec, spec_from_file_location

    spec = spec_from_file_location("blood_cells", Path(__file__).parents[2] / "data_prep" / "blood_cells.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    data = module.prepare_blood_cells(Path(os.environ["MEDKD_DATA"]) / "blood_cells", "raabin", tmp_path / "r", "none")
    assert [len(data.select(s)) for s in ("train", "val", "test")] == [350, 100, 50]
    counts = np.bincount(np.concatenate([b.labels for b in data.boxes.values()]))
    assert counts.tolist() == [1883, 159, 7]  # val and test
    hidden = np.bincount(np.concatenate([b.labels for b in read_hidden_boxes(data).values()]))
    assert hidden.tolist() == [4416, 358, 21]
    assert not data.select("train", labelled=True)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = source(tmp_path / "in")
    arguments = ["prepare", str(folder), "--out", str(tmp_path / "out"), "--boxes", str(folder / "boxes.csv")]
    assert run([*arguments, "--labelled", "some"]) == 2
    assert "a number of patients, all or none" in capsys.readouterr().err
    assert run([*arguments, "--channels", "t1"]) == 2
    assert run([*arguments, "--labelled", "none"]) == 0
    assert "labelled: 0 training patients" in capsys.readouterr().out
    assert run(["info", str(tmp_path / "out")]) == 0
    assert "detection dataset of 10 cases" in capsys.readouterr().out
