"""The comparison is fair only if the bare loop takes the same steps, and only if timing leaves nothing behind."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import torch

from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.runs.prepare import prepare

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "engine_cost.py"
NETWORK = {"features": [4, 4, 4, 8, 8], "norm": "instance", "dropout": [0.0]}


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_cost", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cost")
    write_cohort(folder / "cohort", PhantomOptions(labelled=1, unlabelled=3, validation=1, test=1))
    prepare(folder / "cohort", folder / "data", table=folder / "cohort" / "cases.csv", classes=CLASSES)
    return folder / "data"


def test_the_bare_loop_takes_the_engines_steps(script: ModuleType, data: Path, tmp_path: Path) -> None:
    recipe = script.recipe_of(data, NETWORK, {}, "light", script.ADAMW, 9)
    result = script.overhead(recipe, 2, 1, tmp_path)
    assert result["largest_loss_difference"] == 0
    run, bare = script.phase_run(recipe), script.BareLoop(recipe)
    for _ in range(3):
        run.train_one()
        bare.take()
    for ours, theirs in ((run.method.student, bare.student), (run.method.teacher.network, bare.teacher)):
        for a, b in zip(ours.parameters(), theirs.parameters()):
            assert torch.equal(a, b)


def test_parts_are_timed_and_the_clocks_taken_off(script: ModuleType, data: Path) -> None:
    recipe = script.recipe_of(data, NETWORK, {}, "light", script.ADAMW, 9)
    before = torch.Tensor.backward, script.bcp.paste, script.EmaTeacher.update
    run = script.phase_run(recipe)
    row = script.parts(run, 2)
    assert before == (torch.Tensor.backward, script.bcp.paste, script.EmaTeacher.update)
    assert not run.method.student._forward_hooks
    assert all(row[name] > 0 for name in script.PARTS)
    assert sum(row[name] for name in script.PARTS) <= 1.05 * row["step"]
