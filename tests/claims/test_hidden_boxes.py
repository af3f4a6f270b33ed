"""Precision and recall of pseudo-boxes over time, by hidden boxes: by hand, and in a run that they do not change."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cell_images import write_cells
from safetensors.torch import load_file
from sites_on_disk import adapt_recipe, untrained_model

from medkd.claims.hidden_boxes import HiddenBoxes, counted, curve_rows
from medkd.data.box_geometry import map_boxes
from medkd.data.detection_dataset import HIDDEN
from medkd.data.targets import Detections
from medkd.engine.tracking import read_log
from medkd.errors import InputError
from medkd.metrics.matching import image_boxes
from medkd.report.detections import pseudo_label_curves
from medkd.runs.train import build, train

CLASSES = ("round", "square")


def recipe(data: Path) -> Any:
    made = adapt_recipe(data, data.parent / "model", "detection_mean_teacher", steps=4, threshold=0.2)
    phase = made.phases[0].model_copy(update={"validate_every": 2, "candidate": "teacher"})
    return made.model_copy(update={"phases": (phase,)})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    dataset = write_cells(tmp_path_factory.mktemp("hidden") / "data", train=4, test=1, labelled=False)
    untrained_model(dataset.root.parent / "model", dataset)
    return dataset.root


def test_what_is_right_by_hand() -> None:
    """Two images. Of class 0: a hit, the same object once more, a miss by IoU, one below the threshold, one of another
    class on the second true box."""
    true = [[0, 0, 10, 10], [20, 20, 30, 30]]
    found = [[0, 0, 10, 9], [0, 0, 10, 10], [24, 24, 34, 34], [20, 20, 30, 30], [20, 20, 30, 30]]
    one = image_boxes("a", "a", true, [0, 0], found, [0, 0, 0, 0, 1], [0.9, 0.8, 0.95, 0.3, 0.9])
    other = image_boxes("b", "b", [[5, 5, 9, 9]], [1], np.zeros((0, 4)), [], [])
    assert counted([one, other], 0, 0.7, 0.5) == (1, 3, 2)
    assert counted([one, other], 1, 0.7, 0.5) == (0, 1, 1)
    assert counted([one, other], 0, 0.2, 0.5) == (2, 4, 2)


class Knows(torch.nn.Module):
    """Says what is true of the image whose pixels it recognises: the round ones surely, the squares not."""

    classes = 2

    def __init__(self, watch: HiddenBoxes):
        super().__init__()
        task = watch.hidden
        self.known = []
        for number, case in enumerate(task.cases):
            truth, matrix = task.dataset.truth(case), task.arrays.matrix(number)
            boxes = map_boxes(torch.from_numpy(truth.boxes), matrix)
            labels = torch.from_numpy(truth.labels)
            self.known.append(
                (task.arrays.image(number), Detections(boxes, labels, torch.where(labels == 0, 0.9, 0.5)))
            )

    def predict(self, images: torch.Tensor, score_threshold: float = 0.05) -> list[Detections]:
        nothing = Detections(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.zeros(0))
        return [next((d for known, d in self.known if torch.equal(known, one)), nothing) for one in images]


def test_a_network_that_knows_is_right(data: Path) -> None:
    watch = HiddenBoxes(build(recipe(data)), threshold=0.7)
    assert watch.threshold == 0.7
    scores = watch.evaluate(Knows(watch))
    assert (scores["hidden_precision_round"], scores["hidden_recall_round"]) == (1.0, 1.0)
    assert math.isnan(scores["hidden_precision_square"])
    assert (scores["hidden_recall_square"], scores["hidden_boxes_square"]) == (0.0, 0.0)
    assert scores["hidden_boxes_round"] == 1.0
    assert not any(name.startswith("hidden") for name in watch.evaluate(Knows(watch), limit=1))
    assert HiddenBoxes(build(recipe(data))).threshold == 0.2  # the method's own


def test_watching_changes_no_bit_of_the_run(data: Path, tmp_path: Path) -> None:
    plain = train(recipe(data), tmp_path / "plain")
    watched = train(recipe(data), tmp_path / "watched", watch=partial(HiddenBoxes, threshold=0.1))
    assert (plain.score, plain.step) == (watched.score, watched.step)
    for name in ("best", "last"):
        one, other = (load_file(tmp_path / run / "weights" / f"{name}.safetensors") for run in ("plain", "watched"))
        assert all(torch.equal(one[key], other[key]) for key in one)
    rows = curve_rows(read_log(tmp_path / "watched" / "log.jsonl"), "teacher", CLASSES)
    assert [row["step"] for row in rows] == [2, 4]
    assert {name for row in rows for name in row} == {
        "step", "precision/round", "precision/square", "recall/round", "recall/square",
    }  # fmt: skip
    assert pseudo_label_curves(rows, CLASSES).startswith(b"\x89PNG")
    assert curve_rows(read_log(tmp_path / "plain" / "log.jsonl"), "teacher", CLASSES) == []


def test_without_hidden_boxes_it_says_so(data: Path, tmp_path: Path) -> None:
    other = write_cells(tmp_path / "data", train=2, test=1, labelled=False)
    untrained_model(tmp_path / "model", other)
    (other.root / HIDDEN).unlink()
    with pytest.raises(InputError, match="no boxes of its unlabelled"):
        HiddenBoxes(build(recipe(other.root)))
