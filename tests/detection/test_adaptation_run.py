"""Adaptation through `train`: what it reads of the source, what it never opens (card item 19), what it says."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from cell_images import write_cells
from safetensors.torch import load_file
from sites_on_disk import adapt_recipe, source_recipe

from medkd.cli.app import run as medkd
from medkd.config.load import load_recipe
from medkd.config.models import load_model
from medkd.config.registry import methods
from medkd.data.detection_dataset import ANNOTATIONS, HIDDEN, DetectionDataset
from medkd.detection.grounded_teacher import GroundedTeacher
from medkd.engine.fit import PhaseRun
from medkd.engine.recovery import Checkpoints
from medkd.engine.tracking import Tracker, read_log
from medkd.errors import InputError
from medkd.runs.train import build, train

STATIC = {"static": {"weight": 1.0, "threshold": 0.2}}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with source data, and a run on them."""
    root = tmp_path_factory.mktemp("source")
    data = write_cells(root / "data").root
    train(source_recipe(data), root / "run")
    return root


@pytest.fixture
def target(tmp_path: Path) -> DetectionDataset:
    """No validation case, no labelled one; the boxes of the training images are hidden ones."""
    return write_cells(tmp_path / "target", train=4, val=0, test=2, labelled=False)


class Guard:
    """Raises where a file is opened that source-free adaptation has no right to."""

    def __init__(self) -> None:
        self.forbidden: tuple[str, ...] = ()
        self.opened: list[str] = []

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open" and self.forbidden and isinstance(arguments[0], (str, bytes, os.PathLike)):
            path = str(Path(os.fsdecode(arguments[0])).absolute())
            self.opened.append(path)
            if path.startswith(self.forbidden):
                raise AssertionError(f"{path} was opened")


GUARD = Guard()
sys.addaudithook(GUARD)  # cannot be taken away again: idle while nothing is forbidden


@pytest.fixture
def guard() -> Iterator[Guard]:
    yield GUARD
    GUARD.forbidden = ()
    GUARD.opened.clear()


SURE = {"threshold": 0.2}
OPTIONS: dict[str, dict[str, Any]] = {
    "grounded_teacher": {**SURE, **STATIC, "mixing": 1.0, "crop_side": 8},
    "static_labels": {"static": {"weight": 1.0, "threshold": 0.2, "until": float("inf")}},
    "adabn": {},
}
KINDS = [kind for kind, made in methods().items() if "detection" in made.tasks and "labelled" not in made.needs]


@pytest.mark.parametrize("kind", KINDS)
def test_no_annotation_of_the_target_and_no_source_image_is_opened(
    kind: str, source: Path, target: DetectionDataset, tmp_path: Path, guard: Guard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A whole run, from recipe to model folder. The audit hook sees every file that Python opens; a reader of boxes
    that went another way would find none: the file of hidden boxes is no JSON, the source's folder is gone."""

    def never(*_: Any) -> Any:
        raise AssertionError("boxes were asked for")

    monkeypatch.setattr(DetectionDataset, "truth", never)
    monkeypatch.setattr("medkd.data.detection_dataset._read_boxes", never)
    root = target.root
    (root / HIDDEN).write_text("no JSON")
    init = tmp_path / "model"
    shutil.copytree(source / "run" / "model", init)
    gone = tmp_path / "moved"
    shutil.move(source / "data", gone)
    guard.forbidden = tuple(map(str, (source, gone, root / HIDDEN, root / ANNOTATIONS)))
    try:
        train(adapt_recipe(root, init, kind, **OPTIONS.get(kind, SURE)), tmp_path / "run")
        opened = list(guard.opened)
    finally:
        guard.forbidden = ()
        shutil.move(gone, source / "data")
    assert any(path.startswith(str(root / "images")) for path in opened)  # the hook does see what is opened
    assert load_model(tmp_path / "run").description.trained["methods"] == [kind]
    learnt, before = (load_file(p / "model.safetensors") for p in (tmp_path / "run" / "model", init))
    assert any(not torch.equal(learnt[name], before[name]) for name in learnt)
    if kind != "adabn":
        last = [row for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "train"][-1]
        assert last["boxes_static" if kind == "static_labels" else "boxes_teacher"] > 0  # it did learn from labels


def test_the_guard_catches_both(source: Path, target: DetectionDataset, guard: Guard) -> None:
    guard.forbidden = (str(source / "data"), str(target.root / HIDDEN))
    with pytest.raises(AssertionError, match="was opened"):
        (source / "data" / "images" / "train0.png").read_bytes()
    with pytest.raises(AssertionError, match="was opened"):
        (target.root / HIDDEN).read_text()


def test_without_a_validation_case_the_last_weights_are_kept_and_the_run_says_so(
    source: Path, target: DetectionDataset, tmp_path: Path
) -> None:
    tree = adapt_recipe(target.root, source / "run", "detection_mean_teacher", threshold=0.2).model_dump(mode="json")
    tree["ship"] = tree["phases"][0]["hand_over"] = "best"
    tree["phases"][0]["validate_every"] = 1
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    selection = train(load_recipe(tmp_path / "recipe.yaml"), tmp_path / "run")
    assert selection.step == 3
    assert selection.best.keys() == selection.last.keys()
    assert all(torch.equal(selection.best[name], selection.last[name]) for name in selection.last)
    notes = [row["text"] for row in read_log(tmp_path / "run" / "log.jsonl") if row["kind"] == "note"]
    assert any("the last weights are handed over and shipped" in note for note in notes)
    assert "no validation case" in (tmp_path / "run" / "model" / "model_card.md").read_text()
    assert load_model(tmp_path / "run").description.trained["validation_score"] is None
    page = (tmp_path / "run" / "report.html").read_text()
    assert "no validation case" in page
    assert "has chosen the checkpoint" not in page


def test_a_choice_by_the_targets_labels_is_called_an_oracle(source: Path, tmp_path: Path) -> None:
    data = write_cells(tmp_path / "target", train=2, val=1, test=1, labelled=False).root
    recipe = adapt_recipe(data, source / "run", "detection_mean_teacher")
    assert not any("oracle" in note for note in build(recipe).notes())
    assert any("oracle" in note for note in build(recipe.model_copy(update={"ship": "best"})).notes())


class Falling:
    """A task whose score falls from validation to validation."""

    primary = "ap50"

    def __init__(self, setup: Any):
        self.scores = iter([0.9, 0.5, 0.3])

    def evaluate(self, network: Any, limit: int | None = None) -> dict[str, float]:
        return {"ap50": 0.0 if limit else next(self.scores)}


def test_last_weights_are_described_by_their_own_score(source: Path, tmp_path: Path) -> None:
    """The best validation came earlier; the model that ships is the last one, and card and page speak of it."""
    data = write_cells(tmp_path / "target", train=2, val=1, test=1, labelled=False).root
    recipe = adapt_recipe(data, source / "run", "adabn")  # one candidate
    phase = recipe.phases[0].model_copy(update={"validate_every": 1})
    selection = train(recipe.model_copy(update={"phases": (phase,)}), tmp_path / "run", watch=Falling)
    trained = load_model(tmp_path / "run").description.trained
    assert (selection.score, selection.step) == (0.9, 1)
    assert (trained["validation_score"], trained["selected_at_step"]) == (0.3, 3)
    assert "has chosen the checkpoint" not in (tmp_path / "run" / "report.html").read_text()


def test_source_training_still_needs_a_validation_case(tmp_path: Path) -> None:
    data = write_cells(tmp_path / "data", train=2, val=0, test=1).root
    with pytest.raises(InputError, match="no validation case"):
        train(source_recipe(data), tmp_path / "run")


def test_the_source_model_carries_its_relation(source: Path, target: DetectionDataset, tmp_path: Path) -> None:
    """`train` writes it, adaptation starts from it, and says from where; nobody writes a file by hand."""
    written = json.loads((source / "run" / "model" / "relation.json").read_text())
    rows = torch.tensor(written)
    assert rows.shape == (2, 2)
    assert torch.allclose(rows.sum(1), torch.ones(2), atol=1e-5)
    saved = Checkpoints(source / "run", build(source_recipe(source / "data")).runtime, Tracker()).newest()
    state = saved["method"]
    assert torch.allclose(rows, state["relation.average"] / (1 - state["relation.left"])[:, None], atol=1e-6)
    assert int(state["relation.updates"]) == 40
    setup = build(adapt_recipe(target.root, source / "run", "grounded_teacher", **STATIC))
    assert any("read from" in note and "relation.json" in note for note in setup.notes())
    method = PhaseRun(setup.phases[0], setup.network, setup.task, setup.runtime, 0, Tracker(), {}, {}, 0).method
    assert isinstance(method, GroundedTeacher)
    assert torch.allclose(method.context("source").matrix(), rows, atol=1e-6)


def test_a_missing_relation_is_said_and_learnt_from_static_labels(
    source: Path, target: DetectionDataset, tmp_path: Path
) -> None:
    init = tmp_path / "model"
    shutil.copytree(source / "run" / "model", init)
    (init / "relation.json").unlink()
    setup = build(adapt_recipe(target.root, init, "grounded_teacher", **STATIC))
    assert any("comes without relation.json" in note and "static labels" in note for note in setup.notes())
    (init / "relation.json").write_text("[[1.0]]")
    recipe = adapt_recipe(target.root, init, "grounded_teacher", **STATIC)
    with pytest.raises(InputError, match=r"relation.json is of shape \(1, 1\); needed: \(2, 2\)"):
        train(recipe, tmp_path / "run")


def test_watching_the_relation_changes_no_weight(source: Path, tmp_path: Path) -> None:
    for name, on in (("with", True), ("without", False)):
        train(source_recipe(source / "data", steps=3, relation=on), tmp_path / name)
        assert (tmp_path / name / "model" / "relation.json").is_file() == on
    one, other = (load_file(tmp_path / name / "weights" / "last.safetensors") for name in ("with", "without"))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_what_adaptation_refuses(
    source: Path, target: DetectionDataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match=r"no source model to adapt; add init=MODEL"):
        build(adapt_recipe(target.root, None, "grounded_teacher"))
    text = (target.root / "dataset.yaml").read_text()
    (target.root / "dataset.yaml").write_text(text.replace("- round\n- square", "- square\n- round"))
    recipe = tmp_path / "recipe.yaml"
    tree = adapt_recipe(target.root, source / "run", "detection_mean_teacher").model_dump(mode="json")
    recipe.write_text(yaml.safe_dump(tree))
    assert medkd(["train", str(recipe), "--out", str(tmp_path / "run")]) == 2
    assert "in the same order" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
