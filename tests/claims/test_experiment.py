"""Nothing is done twice, nothing finished is lost, and a line says what it took."""

from __future__ import annotations

import json
import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from medkd.claims import experiment as module
from medkd.claims import runner
from medkd.claims.accounting import parameter_hash, recipe_content, same_recipe, timed
from medkd.claims.experiment import make
from medkd.claims.reproduce import reproduce
from medkd.claims.runner import Run, finished, read_lines, run_folder, run_missing
from medkd.data.dataset import read_dataset
from medkd.engine.checkpoint import load_state
from medkd.errors import InputError
from medkd.runs.phases import network_maker


def test_what_is_finished_is_skipped_and_what_is_missing_is_named(tmp_path, tiny, monkeypatch):
    experiment = tiny()
    made = []

    def make(e, run, *_):
        made.append(run)
        recipe = recipe_content(e.recipe(run, Path("anywhere")))
        return {"arm": run.arm, "seed": run.seed, "budget": e.budget, "recipe": recipe}

    monkeypatch.setattr(module, "make", make)
    seen = []
    run_missing(experiment, tmp_path, lambda lines: seen.append(len(lines)))
    assert made == list(experiment.plan)
    assert seen == [1, 2]
    run_missing(experiment, tmp_path)
    assert made == list(experiment.plan), "a finished run was made again"
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    (tmp_path / "runs.jsonl").write_text(lines[0] + "\n" + lines[1][:20])  # a line that a kill cut short
    assert list(finished(experiment, tmp_path)) == [Run("labelled_only", 0)]
    run_missing(experiment, tmp_path)
    assert made[2:] == [Run("bcp", 0)]
    assert [json.loads(text) for text in (tmp_path / "runs.jsonl").read_text().splitlines()] == read_lines(
        tmp_path / "runs.jsonl"
    )


def test_a_line_of_another_budget_is_another_experiment(tmp_path, tiny):
    experiment = tiny()
    row = {"arm": "bcp", "seed": 0, "budget": "200+600"}
    (tmp_path / "runs.jsonl").write_text(json.dumps(row) + "\n")
    assert not finished(experiment, tmp_path)


def test_a_line_of_another_recipe_is_another_run_and_one_of_other_data_is_refused(tmp_path, tiny):
    experiment = tiny()
    run = Run("bcp", 0)
    own = recipe_content(experiment.recipe(run, Path("anywhere")))
    older = {key: value for key, value in own.items() if key != "save_every"}  # an option that came later
    other = own | {"seed": 7}
    for recipe, known in ((own, True), (older, True), (other, False), ("another", False), ({"gone": 1}, False)):
        row = {"arm": "bcp", "seed": 0, "budget": experiment.budget, "recipe": recipe}
        (tmp_path / "runs.jsonl").write_text(json.dumps(row) + "\n")
        assert (run in finished(experiment, tmp_path)) is known
    assert not same_recipe(own, experiment.recipe(Run("labelled_only", 0), Path("anywhere")))
    (tmp_path / "runs.jsonl").write_text(json.dumps(row | {"source": "elsewhere"}) + "\n")
    with pytest.raises(InputError, match="elsewhere"):
        finished(experiment, tmp_path)


def test_sessions_add_up_to_the_last_checkpoint(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    checkpoint = folder / "last.safetensors"
    now = SimpleNamespace(time=lambda: now.seconds, process_time=lambda: 0.0, seconds=1000.0)
    monkeypatch.setattr("medkd.claims.accounting.time", now)

    def killed() -> None:
        with timed(folder):
            checkpoint.touch()
            os.utime(checkpoint, (1200.0, 1200.0))
            now.seconds = 1600.0  # from 1200 on lost: computed again after the checkpoint
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        killed()
    now.seconds = 2000.0
    with timed(folder) as clock:
        now.seconds = 2050.0
    assert clock.sessions == 2
    assert clock.seconds == 200 + 50
    assert clock.cpu is None
    with timed(tmp_path / "other") as alone:
        pass
    assert alone.sessions == 1
    assert alone.cpu is not None


def test_a_finished_experiment(tmp_path, tiny):
    """Both arms end to end: lines, page, pictures; the same start; a second call changes nothing."""
    experiment = tiny()
    lines = reproduce(experiment, tmp_path)
    folder = tmp_path / experiment.name
    assert [line["arm"] for line in lines] == ["labelled_only", "bcp"]
    assert len({line["start_weights"] for line in lines}) == 1
    one, two = lines
    assert (one["updates"], two["updates"]) == (8, 8)
    assert (one["student_images"], two["student_images"]) == (8 * 8, 4 * 4 + 4 * 8)  # stage 1 pastes one way here
    assert two["teacher_images"] == 4 * 8
    assert set(two["scores_best"]) == {"rv", "myo", "lv", "mean"}
    assert any("teacher/hidden_dice" in row for row in two["validation"])
    assert not any("student/hidden_dice" in row for row in one["validation"])
    names = ("arms", "by_scan", "curves", "pseudo_labels", "features", "composites", "overlays")
    for name in names:
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "bcp_phantom.md").read_text()
    assert "**2 of 2 runs are finished.**" in page
    assert all(f"({experiment.name}/{name}.png)" in page for name in names)
    before = {path: path.read_bytes() for path in (folder / "runs.jsonl", tmp_path / "bcp_phantom.md")}
    reproduce(experiment, tmp_path)
    assert before == {path: path.read_bytes() for path in before}


def test_a_killed_run_goes_on_and_reading_hidden_labels_changes_nothing(tmp_path, tiny, monkeypatch):
    """The run with hidden labels scored, killed between its stages, ends with the weights of the plain run."""
    experiment = tiny(("bcp",))
    run = Run("bcp", 0)
    from medkd.runs.train import train as whole

    data = experiment.dataset(run, tmp_path)
    whole(experiment.recipe(run, data), tmp_path / "plain")

    class Stop(Exception):
        pass

    def interrupted(recipe, folder, **given):
        steps = []
        from medkd.engine.fit import PhaseRun

        original = PhaseRun.train_one

        def train_one(self):
            if len(steps) == 6:
                raise Stop
            steps.append(1)
            original(self)

        with monkeypatch.context() as m:
            m.setattr(PhaseRun, "train_one", train_one)
            whole(recipe, folder, **given)

    with monkeypatch.context() as m:
        m.setattr(runner, "train", interrupted)
        with pytest.raises(Stop):
            make(experiment, run, tmp_path, None)
    assert int(load_state(run_folder(experiment, run, tmp_path) / "last.safetensors")["global_step"]) == 4
    line = make(experiment, run, tmp_path, None)
    assert line["sessions"] == 2
    assert line["cpu_seconds"] is None
    for name in ("best", "last"):
        file = f"weights/{name}.safetensors"
        assert (tmp_path / "plain" / file).read_bytes() == (
            run_folder(experiment, run, tmp_path) / file
        ).read_bytes(), name


def test_start_weights_ignore_buffers(tmp_path, tiny):
    experiment = tiny()
    data = experiment.dataset(Run("bcp", 0), tmp_path)
    recipe = experiment.recipe(Run("bcp", 0), data)
    dataset = read_dataset(data)
    tree = recipe.model_dump(mode="json")
    tree["network"] |= {"norm": "batch", "dropout": [0.5]}
    other = type(recipe).model_validate(tree)
    assert parameter_hash(network_maker(recipe, dataset)(0)) == parameter_hash(network_maker(other, dataset)(0))
    moved = network_maker(recipe, dataset)(0)
    with torch.no_grad():
        next(moved.parameters()).add_(1e-3)
    assert parameter_hash(moved) != parameter_hash(network_maker(recipe, dataset)(0))


def test_a_run_of_another_recipe_is_not_continued(tmp_path, tiny):
    experiment = tiny(("labelled_only",))
    run = Run("labelled_only", 0)
    make(experiment, run, tmp_path, None)
    folder = run_folder(experiment, run, tmp_path)
    text = (folder / "recipe.yaml").read_text()
    (folder / "recipe.yaml").write_text(text.replace("lr: 0.001", "lr: 0.002"))
    with pytest.raises(InputError, match="another recipe"):
        make(experiment, run, tmp_path, None)
    assert Path(folder / "recipe.yaml").exists()
