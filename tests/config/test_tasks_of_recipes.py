"""A recipe is of a task: which keys it has, and which methods may stand in it."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest

from medkd.cli.app import run
from medkd.config import load
from medkd.config.load import RECIPES, parse_recipe
from medkd.config.recipe import Recipe, StreamOptions
from medkd.config.registry import methods
from medkd.config.segmentation import SegmentationRecipe
from medkd.errors import InputError

PHASE = {"name": "training", "method": {"kind": "supervised"}, "steps": 10}


class Grading(Recipe):
    """A task that medkd does not have."""

    task: Literal["classification"] = "classification"
    labelled: StreamOptions = StreamOptions()

    def streams(self) -> dict[str, StreamOptions]:
        return {"labelled": self.labelled}


def tree(kind: str, task: str = "classification", **values: Any) -> dict[str, Any]:
    return {"task": task, "phases": [PHASE | {"method": {"kind": kind}}], **values}


@pytest.fixture
def grading(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(load.RECIPES, "classification", Grading)
    monkeypatch.setattr(methods()["supervised"], "tasks", ("segmentation", "classification"))


def test_a_recipe_without_a_task_is_of_segmentation() -> None:
    assert isinstance(parse_recipe({"phases": [PHASE]}), SegmentationRecipe)


@pytest.mark.parametrize("task", ["segmentatoin", 3, ["segmentation"], None])
def test_an_unknown_task_names_those_there_are(task: object) -> None:
    hint = r"did you mean 'segmentation'\? " if task != 3 and task is not None else ""
    with pytest.raises(InputError, match=rf"task is .*: {hint}allowed: {', '.join(RECIPES)}"):
        parse_recipe({"task": task, "phases": [PHASE]})


@pytest.mark.usefixtures("grading")
def test_the_task_chooses_the_keys() -> None:
    assert isinstance(parse_recipe(tree("supervised")), Grading)
    with pytest.raises(InputError, match=r"unknown key held_out: .*allowed here: data, .*labelled"):
        parse_recipe(tree("supervised", held_out={}))


@pytest.mark.usefixtures("grading")
def test_a_method_of_another_task_is_refused() -> None:
    message = (
        r"phases\.training\.method is bcp, which serves segmentation; the recipe's task is classification, for which "
        r"there are: .*supervised"
    )
    with pytest.raises(InputError, match=message):
        parse_recipe(tree("bcp"))


@pytest.mark.usefixtures("grading")
def test_a_stream_that_the_task_does_not_have_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(methods()["cps"], "tasks", ("classification",))
    with pytest.raises(InputError, match=r"cps reads unlabelled; the streams of classification are labelled"):
        parse_recipe(tree("cps"))


def test_every_method_names_tasks_that_there_are() -> None:
    for name, options in methods().items():
        assert options.tasks, name
        assert set(options.tasks) <= RECIPES.keys(), name


def test_the_schema_is_that_of_a_task(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["config", "schema"], ["config", "schema", "segmentation"]):
        assert run(arguments) == 0
        assert json.loads(capsys.readouterr().out)["title"] == "SegmentationRecipe"
    assert run(["config", "schema", "cooking"]) == 2
    assert "task is 'cooking': allowed: " in capsys.readouterr().err


def test_a_phase_may_have_a_network_of_its_own() -> None:
    own = PHASE | {"name": "small", "network": {"kind": "UNet", "features": [4, 8]}}
    recipe = parse_recipe({"phases": [PHASE | {"becomes": "teacher"}, own]})
    assert [recipe.network_options(number).kind for number in (0, 1)] == ["BasicUNet", "UNet"]


def test_a_student_is_not_handed_to_a_phase_of_another_network() -> None:
    own = PHASE | {"name": "small", "network": {"kind": "UNet", "features": [4, 8]}}
    with pytest.raises(InputError, match=r"phases\.small trains another network than phases\.training, which hands"):
        parse_recipe({"phases": [PHASE, own]})
