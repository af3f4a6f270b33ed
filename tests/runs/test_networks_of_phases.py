"""Phases with networks of their own: a teacher, then a smaller student."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from medkd.config.load import parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.engine.checkpoint import load_state
from medkd.errors import InputError
from medkd.inference.model_folder import SegmentationModel
from medkd.runs.evaluate import evaluate
from medkd.runs.prepare import prepare
from medkd.runs.train import build, train

LARGE = {"kind": "BasicUNet", "features": [8, 8, 16, 16, 16], "norm": "instance"}
SMALL = {"kind": "BasicUNet", "features": [4, 4, 8, 8, 8], "norm": "instance"}
TEACHER = {"name": "teach", "method": {"kind": "supervised"}, "steps": 2, "becomes": "teacher", "network": LARGE}
STUDENT = {"name": "distil", "method": {"kind": "tgeo_kd", "classes": 4}, "steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("networks")
    write_cohort(folder / "cohort", PhantomOptions(labelled=3, unlabelled=1, validation=1, test=1, size=32))
    prepare(folder / "cohort", folder / "data", table=folder / "cohort/cases.csv", classes=CLASSES)
    return folder / "data"


def recipe(data: Path, phases: list[dict[str, Any]], **values: Any) -> Recipe:
    preprocess = {"size": [32, 32], "patch": [32, 32]}
    small = {"labelled": {"size": 4}, "held_out": {"size": 2}, "runtime": {"threads": 1}} | values
    return parse_recipe({"data": str(data), "preprocess": preprocess, "network": SMALL, "phases": phases, **small})


def widths(network: torch.nn.Module) -> int:
    return network.get_submodule("final_conv").weight.shape[1]


def test_a_student_of_another_network_learns_from_the_teacher_of_a_phase(data: Path, tmp_path: Path) -> None:
    made = recipe(data, [TEACHER, STUDENT])
    phases = build(made).phases
    assert phases[0].networks is not None
    assert phases[1].networks is not None
    assert [widths(phases[0].networks(0)), widths(phases[1].networks(0))] == [8, 4]
    assert widths(phases[1].networks("teacher")) == 8

    train(made, tmp_path / "run")
    model = load_model(tmp_path / "run")
    assert isinstance(model.description, SegmentationModel)
    assert model.description.network == made.network_options(1)  # the student ships
    assert widths(model.network) == 4
    assert load_state(tmp_path / "run/last.safetensors")["handed"]["teacher"]["final_conv.weight"].shape[1] == 8
    done = evaluate(tmp_path / "run", data, pictures=False)
    assert done.table[0][:2] == ["class", "dice"]
    assert done.summary["cases"] == 1


def test_phases_of_one_network_share_its_maker(data: Path) -> None:
    plain = {name: value for name, value in TEACHER.items() if name != "network"}
    assert all(phase.networks is None for phase in build(recipe(data, [plain, STUDENT])).phases)


def test_a_run_goes_on_only_with_the_same_task_and_keys(data: Path, tmp_path: Path) -> None:
    train(recipe(data, [TEACHER]), tmp_path / "run")
    wider = TEACHER | {"network": SMALL}
    with pytest.raises(InputError, match=r"another recipe \(phases differ\)"):
        train(recipe(data, [wider]), tmp_path / "run", resume=True)


def test_a_model_of_an_unknown_task_is_refused(data: Path, tmp_path: Path) -> None:
    train(recipe(data, [TEACHER]), tmp_path / "run")
    file = tmp_path / "run/model/model.yaml"
    text = file.read_text()
    assert "task: segmentation" in text
    file.write_text(text.replace("task: segmentation", "task: cooking"))
    with pytest.raises(InputError, match=r"has the task 'cooking'; allowed: segmentation"):
        load_model(tmp_path / "run")
    file.write_text(text.replace("task: segmentation\n", ""))  # as the first models of format 1 may be
    assert load_model(tmp_path / "run").description.task == "segmentation"


SMALL_STUDENT = {
    "name": "distil",
    "method": {
        "kind": "distil",
        "dry_size": 32,
        "losses": [{"kind": "kd"}, {"kind": "fitnets", "student": "upcat_1", "teacher": "upcat_1"}],
    },
    "steps": 2,
}


def test_distil_ships_the_student_alone_and_takes_a_model_folder_as_teacher(data: Path, tmp_path: Path) -> None:
    train(recipe(data, [TEACHER, SMALL_STUDENT]), tmp_path / "run")
    state = load_state(tmp_path / "run/last.safetensors")
    assert any(name.startswith("losses.1.regressor") for name in state["method"])
    assert widths(load_model(tmp_path / "run").network) == 4  # open_model refuses weights that are not the network's

    made = recipe(data, [SMALL_STUDENT], teacher=str(tmp_path / "run"))
    train(made, tmp_path / "second")
    assert widths(load_model(tmp_path / "second").network) == 4


def test_a_teacher_with_another_input_or_other_classes_is_refused(data: Path, tmp_path: Path) -> None:
    train(recipe(data, [TEACHER]), tmp_path / "run")
    file = tmp_path / "run/model/model.yaml"
    made = recipe(data, [SMALL_STUDENT], teacher=str(tmp_path / "run"))
    text = file.read_text()
    file.write_text(text.replace("- lv", "- left ventricle"))
    with pytest.raises(InputError, match=r"has the classes background, .*left ventricle; the dataset background, "):
        build(made)
    file.write_text(text.replace("dims: 2", "dims: 3").replace("- 32\n", "- 32\n  - 32\n", 1))
    assert "dims: 3" in file.read_text()
    with pytest.raises(InputError, match=r"not a model description|trained with preprocess\.dims 3, the recipe has 2"):
        build(made)


def test_a_channels_last_run_ships_its_weights(data: Path, tmp_path: Path) -> None:
    """Files of weights hold tensors in row order, whatever the order that trained them."""
    one = {"name": "training", "method": {"kind": "supervised"}, "steps": 1}
    made = recipe(data, [one], runtime={"threads": 1, "channels_last": True})
    train(made, tmp_path / "run")
    weights = load_file(tmp_path / "run/weights/best.safetensors")
    assert all(torch.equal(weights[k], v) for k, v in load_model(tmp_path / "run").network.state_dict().items())
