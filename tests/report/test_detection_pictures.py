"""Pictures of detection: boxes are where they were found, and what cannot be drawn is said."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from medkd.errors import InputError
from medkd.report.colours import class_colour
from medkd.report.detections import Boxed, detection_sheet, pseudo_label_curves, relation_heat_maps, relation_matrices


def pixels(picture: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("RGB"))


def near(picture: np.ndarray, colour: str) -> int:
    rgb = [int(colour[i : i + 2], 16) for i in (1, 3, 5)]
    return int((np.abs(picture.astype(int) - rgb) < 25).all(-1).sum())


def test_a_box_is_drawn_in_the_colour_of_its_class() -> None:
    image = np.random.default_rng(0).uniform(0, 1, (40, 60))
    box = np.array([[10, 10, 40, 30]])
    plain = pixels(detection_sheet([Boxed("a", image)], ["cell", "nodule"]))
    found = Boxed("a", image, found=box, labels=np.array([1]), scores=np.array([0.5]))
    drawn = pixels(detection_sheet([found], ["cell", "nodule"]))
    assert plain.shape == drawn.shape
    assert near(drawn, class_colour(2)) > near(plain, class_colour(2)) + 200
    assert near(drawn, class_colour(1)) == near(plain, class_colour(1))


def test_colour_images_and_truth() -> None:
    image = np.zeros((40, 60, 3), np.uint8)
    image[..., 0] = 255
    row = Boxed("a", image, truth=np.array([[5, 5, 20, 20]]), truth_labels=np.array([0]))
    drawn = pixels(detection_sheet([row] * 5, ["cell"]))
    assert near(drawn, "#ff0000") > 1000
    assert near(drawn, class_colour(1)) > 200


def test_unknown_classes_and_nothing_to_draw() -> None:
    with pytest.raises(InputError, match="at least one"):
        detection_sheet([], ["cell"])
    with pytest.raises(InputError, match="labels up to 3"):
        detection_sheet([Boxed("a", np.eye(4), found=np.ones((1, 4)), labels=np.array([3]))], ["cell"])
    with pytest.raises(InputError, match="step 5: shape"):
        relation_heat_maps({5: np.eye(2)}, ["a", "b", "c"])
    with pytest.raises(InputError, match="no precision"):
        pseudo_label_curves([{"step": 1}], ["a"])


def test_matrices_and_curves_are_pictures() -> None:
    matrices = {step: np.eye(3) * step / 100 + 0.1 for step in range(0, 100, 10)}
    matrices[0] = np.zeros((3, 3))
    classes = ["RBC", "WBC", "Platelet"]
    assert relation_heat_maps(matrices, classes) != relation_heat_maps({90: matrices[90]}, classes)
    rows = [{"step": s, "precision/a": s / 10, "recall/a": 1 - s / 10} for s in range(10)]
    changed = [{**row, "recall/a": 0.0} for row in rows]
    assert pseudo_label_curves(rows, ["a"]) != pseudo_label_curves(changed, ["a"])


def test_matrices_come_from_the_rows_that_hold_them() -> None:
    whole = {"kind": "train", "global_step": 20, "context_0_0": 0.75, "context_0_1": 0.25, "context_1_0": 0.0,
             "context_1_1": 1.0}  # fmt: skip
    found = relation_matrices([{"kind": "validation", "global_step": 10}, whole], 2)
    assert {step: m.tolist() for step, m in found.items()} == {20: [[0.75, 0.25], [0.0, 1.0]]}
    assert relation_matrices([{"kind": "train", "global_step": 20}], 2) == {}
