"""A run that is killed goes on and ends where the uninterrupted one ends, bit for bit."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from disturbed import log_rows, newest_step, reach
from processes import Process, finished

from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.engine.checkpoint import load_state
from medkd.runs.phantom import phantom_recipe
from medkd.runs.prepare import prepare


def start(recipe: Path, out: Path, *more: str) -> Process:
    return Process([sys.executable, "-m", "medkd", "train", str(recipe), "--out", str(out), *more])


@pytest.mark.slow
def test_sigkill_and_resume(tmp_path: Path) -> None:
    options = PhantomOptions(labelled=1, unlabelled=3, validation=1, test=1, size=32)
    write_cohort(tmp_path / "cohort", options)
    prepare(tmp_path / "cohort", tmp_path / "data", table=tmp_path / "cohort/cases.csv", classes=CLASSES)
    recipe = phantom_recipe("bcp", tmp_path / "data", 0, 30, 90).model_dump(mode="json")
    recipe["preprocess"] |= {"size": [32, 32], "patch": [32, 32]}
    recipe["save_every"] = 7
    for phase in recipe["phases"]:
        phase["validate_every"] = 10
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    with start(tmp_path / "recipe.yaml", tmp_path / "whole") as whole:
        finished([whole], within=300)
    reached = []
    for stop in (9, 43, 80):  # in both phases, and never at a checkpoint by design
        with start(tmp_path / "recipe.yaml", tmp_path / "killed", *(["--resume"] if reached else [])) as run:
            reach(run, tmp_path / "killed", stop)
            run.kill()
        reached.append(newest_step(tmp_path / "killed"))
    assert reached[-1] < 120, "the run ended before it was killed"
    with start(tmp_path / "recipe.yaml", tmp_path / "killed", "--resume") as last:
        finished([last], within=300)

    one, two = (flat(load_state(tmp_path / name / "last.safetensors")) for name in ("whole", "killed"))
    assert one == two
    for name in ("best", "last"):
        file = f"weights/{name}.safetensors"
        assert (tmp_path / "whole" / file).read_bytes() == (tmp_path / "killed" / file).read_bytes()
    assert log_rows(tmp_path / "whole") == log_rows(tmp_path / "killed")


def flat(value: object) -> object:
    if isinstance(value, dict):
        return {k: flat(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [flat(v) for v in value]
    return value.tolist() if hasattr(value, "tolist") else value
