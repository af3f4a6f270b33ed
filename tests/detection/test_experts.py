"""Card grounded_teacher.md, section 6, items 14 to 16, and the mistakes of section 9 that they guard against."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from medkd.data.box_geometry import map_boxes
from medkd.data.targets import Detections
from medkd.detection.experts import ExpertLabels, expert_file, mask_boxes
from medkd.detection.pseudo_labels import as_target, confident, fused, matched
from medkd.errors import InputError

CLASSES = ("rbc", "wbc")
FLIP = torch.tensor([[-1.0, 0, 100], [0, 1, 0], [0, 0, 1]])
RESIZE = torch.tensor([[6.0, 0, 0], [0, 6, 0], [0, 0, 1]])


def detections(boxes: list[list[float]], labels: list[int], scores: list[float]) -> Detections:
    return Detections(torch.tensor(boxes).float().reshape(-1, 4), torch.tensor(labels).long(), torch.tensor(scores))


def results(path: Path, *images: str) -> Path:
    rows = [
        {"image_id": image, "category_id": n % 2, "bbox": [10.0 + n, 5, 20, 4], "score": 0.9}
        for n, image in enumerate(images)
    ]
    path.write_text(json.dumps(rows))
    return path


def test_there_and_back_is_the_identity() -> None:
    """Original -> short side 600 -> flip -> back."""
    boxes = torch.tensor([[10.0, 5, 30, 9], [0.3, 0.7, 99.2, 64.1]])
    flip_600 = torch.tensor([[-1.0, 0, 600], [0, 1, 0], [0, 0, 1]])
    view = flip_600 @ RESIZE
    assert torch.allclose(map_boxes(map_boxes(boxes, view), torch.linalg.inv(view)), boxes, atol=1e-3)


def test_an_expert_box_follows_the_flip(tmp_path: Path) -> None:
    """The published code attaches original pixels to resized and flipped images."""
    expert = ExpertLabels.read(results(tmp_path / "r.json", "a"), CLASSES)
    assert expert.in_view("a", FLIP, (50, 100)).boxes.tolist() == [[70, 5, 90, 9]]
    assert expert.in_view("a", FLIP @ torch.diag(torch.tensor([2.0, 2, 1])), (50, 100)).boxes.tolist() == [
        [40, 10, 80, 18]
    ]
    assert expert.by_image["a"].boxes.tolist() == [[10, 5, 30, 9]]  # what is stored stays in original pixels


def test_boxes_outside_the_view_go() -> None:
    expert = ExpertLabels({"a": detections([[10, 5, 30, 9], [90, 5, 99, 9]], [0, 1], [0.9, 0.8])})
    assert expert.in_view("a", torch.eye(3), (50, 20)).boxes.tolist() == [[10, 5, 20, 9]]


def test_labels_are_joined_by_image_and_never_shift(tmp_path: Path) -> None:
    """The published code zips lists: one image without a row moves the labels of all later ones."""
    whole = ExpertLabels.read(results(tmp_path / "all.json", "a", "b", "c"), CLASSES)
    rows = json.loads((tmp_path / "all.json").read_text())
    (tmp_path / "less.json").write_text(json.dumps([r for r in rows if r["image_id"] != "a"]))
    less = ExpertLabels.read(tmp_path / "less.json", CLASSES)
    assert less.in_view("a", torch.eye(3), (50, 100)) is None
    for image in ("b", "c"):
        one, other = (e.in_view(image, torch.eye(3), (50, 100)) for e in (whole, less))
        assert torch.equal(one.boxes, other.boxes)
        assert torch.equal(one.labels, other.labels)


def test_the_experts_labels_leave_the_teachers_untouched() -> None:
    """The published code overwrites the teacher's pseudo-labels: two names for one list."""
    teacher = detections([[10, 5, 30, 9]], [0], [0.9])
    before = copy.deepcopy(teacher)
    expert = detections([[11, 5, 31, 9], [50, 5, 60, 9]], [0, 1], [0.95, 0.85])
    sets = [
        as_target(confident(d, 0.8), s, regress=s == "expert") for d, s in ((teacher, "teacher"), (expert, "expert"))
    ]
    for how in ("weighted", "agreement"):
        fused(teacher, expert, how)
    assert sets[0] is not sets[1]
    assert (sets[0].source, sets[0].boxes.tolist()) == ("teacher", [[10, 5, 30, 9]])
    for name in ("boxes", "labels", "scores"):
        assert torch.equal(getattr(teacher, name), getattr(before, name))
    assert sets[1].boxes.data_ptr() != sets[0].boxes.data_ptr()


def test_csv_and_json_say_the_same(tmp_path: Path) -> None:
    table = tmp_path / "e.csv"
    table.write_text("image_id,label,score,x,y,w,h\na,rbc,0.9,10,5,20,4\nb,wbc,0.9,11,5,20,4\nc,,0,NA,NA,NA,NA\n")
    one = ExpertLabels.read(table, CLASSES)
    other = ExpertLabels.read(results(tmp_path / "r.json", "a", "b"), CLASSES)
    for image in ("a", "b"):
        assert torch.equal(one.by_image[image].boxes, other.by_image[image].boxes)
        assert torch.equal(one.by_image[image].labels, other.by_image[image].labels)
    assert len(one.in_view("c", torch.eye(3), (50, 100))) == 0  # looked at, nothing found; not the same as no opinion
    assert other.in_view("c", torch.eye(3), (50, 100)) is None


def test_a_class_keeps_its_own_slot() -> None:
    """The published code writes the lesion's probability into the background's slot, for one class alone."""
    target = as_target(detections([[1, 1, 5, 5], [2, 2, 9, 9]], [1, 0], [0.9, 0.9]), "expert", True)
    assert target.labels.tolist() == [1, 0]
    assert target.soft is None


def test_the_threshold_is_monotone_and_one_is_empty() -> None:
    d = detections([[0, 0, 9, 9]] * 5, [0] * 5, [0.1, 0.5, 0.7, 0.9, 1.0])
    counts = [len(confident(d, t)) for t in (0.0, 0.3, 0.6, 0.7, 0.95, 1.0)]
    assert counts == [5, 4, 3, 2, 1, 0]


def test_nan_is_refused() -> None:
    with pytest.raises(ValueError, match="NaN"):
        confident(detections([[0, 0, 9, 9]], [0], [float("nan")]), 0.5)


def test_empty_images_are_skipped_unless_asked() -> None:
    nothing = detections([], [], [])
    assert as_target(nothing, "teacher", False) is None
    assert len(as_target(nothing, "teacher", False, "background")) == 0


def test_fusion_by_hand() -> None:
    teacher = detections([[0, 0, 10, 10], [50, 0, 60, 10]], [0, 1], [0.9, 0.8])
    expert = detections([[1, 0, 11, 10], [50, 0, 60, 10], [80, 0, 90, 10]], [0, 0, 1], [0.3, 0.6, 0.7])
    assert matched(teacher, expert).tolist() == [0, -1]  # the second is of another class
    assert fused(teacher, expert, "agreement").boxes.tolist() == [[0, 0, 10, 10]]
    both = fused(teacher, expert, "weighted")
    assert both.boxes[0].tolist() == pytest.approx([0.25, 0, 10.25, 10])  # weights .9 and .3
    assert both.scores.tolist() == pytest.approx([0.6, 0.4, 0.3, 0.35])
    same = fused(teacher, teacher, "weighted")
    assert torch.allclose(same.boxes, teacher.boxes)
    assert torch.allclose(same.scores, teacher.scores)
    assert len(fused(detections([], [], []), detections([], [], []), "weighted")) == 0


def test_a_mask_becomes_boxes() -> None:
    probability = np.zeros((20, 30))
    probability[2:5, 4:10] = 0.6
    probability[3, 5] = 0.9
    probability[10:12, 20:21] = 0.7
    probability[15, 15] = 0.8
    found = mask_boxes(probability, 1, least_pixels=2)
    assert found.boxes.tolist() == [[4, 2, 10, 5], [20, 10, 21, 12]]
    assert found.scores.tolist() == pytest.approx([0.9, 0.7])
    assert found.labels.tolist() == [1, 1]


def test_any_function_makes_a_file(tmp_path: Path) -> None:
    pixels = np.zeros((20, 30, 3))
    pixels[2:5, 4:10] = 1.0
    path = expert_file(
        lambda image: mask_boxes(image[..., 0], 1), [("a", pixels), ("b", pixels * 0)], CLASSES, tmp_path / "e.json"
    )
    expert = ExpertLabels.read(path, CLASSES)
    assert expert.in_view("a", torch.eye(3), (20, 30)).boxes.tolist() == [[4, 2, 10, 5]]
    assert len(expert.in_view("b", torch.eye(3), (20, 30))) == 0
    assert expert.in_view("c", torch.eye(3), (20, 30)) is None


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("e.json", "[{", "not JSON"),
        ("e.json", '[{"image_id": 1}]', "not COCO JSON"),
        ("e.json", '[{"image_id": 1, "category_id": 7, "score": 1, "bbox": [0, 0, 1, 1]}]', "allowed: rbc, wbc"),
        ("e.json", '[{"image_id": 1, "category_id": 1, "score": NaN, "bbox": [0, 0, 1, 1]}]', "needed: a score"),
        ("e.json", '[{"image_id": 1, "category_id": 1, "score": 1, "bbox": [0, 0, 0, 1]}]', "above 0"),
        ("e.csv", "image_id,label\na,rbc\n", "no column score, x"),
        ("e.csv", "image_id,label,score,x,y,w,h\na,rbc,high,1,1,1,1\n", "line 2"),
        ("e.txt", "", "neither"),
    ],
)  # fmt: skip
def test_bad_files_are_refused(tmp_path: Path, name: str, text: str, words: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=words):
        ExpertLabels.read(tmp_path / name, CLASSES)
    with pytest.raises(InputError, match="not there"):
        ExpertLabels.read(tmp_path / "none.json", CLASSES)
