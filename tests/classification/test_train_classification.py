"""The path of classification: train a recipe, evaluate, predict; resume; volumes; what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_images import write_shapes

from medkd.config.load import load_recipe, parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.errors import InputError
from medkd.runs.evaluate import evaluate
from medkd.runs.info import inspect
from medkd.runs.predict import predict
from medkd.runs.train import build, train

ROOT = Path(__file__).parents[2]


def recipe(data: Path, steps: int = 6, dims: int = 2, **changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "task": "classification", "data": str(data), "save_every": 3,
        "preprocess": {"dims": dims, "size": [20] * dims, "intensity": "full"},
        "network": {"kind": "TinyCNN", "features": [8, 16]},
        "labelled": {"size": 8, "augment": {"flip": 0.5}},
        "phases": [{
            "name": "training", "steps": steps, "validate_every": 20, "method": {"kind": "supervised"},
            "optimizer": {"kind": "adamw", "lr": 0.01},
        }],
        "runtime": {"device": "cpu"},
    }  # fmt: skip
    return parse_recipe(tree | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes") / "data").root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(recipe(data, steps=60), out)
    return out


def test_a_run_folder_and_its_model(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {"recipe.yaml", "log.jsonl", "first_batch.png", "curves.png", "report.html", "model", "weights"}
    model = load_model(run)
    assert model.description.task == "classification"
    assert model.description.classes == ("round", "square")
    assert model.description.trained["score"] == "balanced_accuracy"
    assert model.description.trained["labelled_cases"] == 20
    assert "Not a medical device" in (run / "model" / "model_card.md").read_text()
    assert "validation balanced accuracy" in (run / "report.html").read_text()


def test_evaluation(run: Path, data: Path, tmp_path: Path) -> None:
    done = evaluate(run, data, "test", out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "cases.csv", "summary.json", "confusion.png", "reliability.png", "report.html",
    }  # fmt: skip
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary == done.summary
    assert (summary["cases"], summary["unit"], summary["units"]) == (12, "patient", 6)
    assert summary["balanced_accuracy"]["value"] > 0.8
    assert "ece_top_class_15_equal_width_bins" in summary
    assert [row[0] for row in done.table[1]] == ["round", "square", "mean over classes"]
    with (tmp_path / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["case"] for row in rows] == [f"test{n}" for n in range(12)]
    assert [row["class"] for row in rows[:2]] == ["round", "square"]
    right = sum(row["class"] == row["predicted"] for row in rows)
    assert right / 12 == pytest.approx(summary["accuracy"]["value"])
    for row in rows:
        assert float(row["p_round"]) + float(row["p_square"]) == pytest.approx(1, abs=1e-4)
        assert (float(row["p_round"]) >= 0.5) == (row["predicted"] == "round")


def test_prediction_is_what_evaluation_found(run: Path, data: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("test0.png", "test1.png"):
        (source / name).write_bytes((data / "images" / name).read_bytes())
    (source / "broken.png").write_bytes(b"no picture")
    done = predict(run, source, out)
    assert len(done.refused) == 1
    assert "broken.png" in done.refused[0]
    with (out / "predictions.csv").open() as file:
        rows = {row["file"]: row for row in csv.DictReader(file)}
    assert rows.keys() == {"test0.png", "test1.png"}
    evaluate(run, data, "test", out=tmp_path / "evaluation", pictures=False)
    with (tmp_path / "evaluation" / "cases.csv").open() as file:
        for row in list(csv.DictReader(file))[:2]:
            mine = rows[f"{row['case']}.png"]
            assert mine["predicted"] == row["predicted"]
            assert float(mine["p_round"]) == pytest.approx(float(row["p_round"]), abs=1e-5)
    assert predict(run, source, out).kept == [out / "predictions.csv"]
    assert predict(run, source / "test0.png", tmp_path / "one.csv").written == [tmp_path / "one.csv"]


def test_a_resumed_run_is_the_uninterrupted_one(data: Path, tmp_path: Path) -> None:
    train(recipe(data), tmp_path / "whole")

    class Cut(Exception):
        pass

    def stops(setup: Any) -> Any:
        stream = setup.phases[0].streams["labelled"]
        first = type(stream).batch

        class Stream:
            def batch(self, step: int) -> Any:
                if step == 4:
                    raise Cut
                return first(stream, step)

        setup.phases[0].streams["labelled"] = Stream()
        return setup.task

    with pytest.raises(Cut):
        train(recipe(data), tmp_path / "cut", watch=stops)
    train(recipe(data), tmp_path / "cut", resume=True)
    whole, cut = (load_file(tmp_path / name / "weights" / "last.safetensors") for name in ("whole", "cut"))
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)


def test_volumes_are_seen_on_ras_axes_whatever_their_files_say(tmp_path: Path) -> None:
    """A test volume stored with other axes is the same volume: it gets the same probabilities, to the last bit."""
    import nibabel as nib

    data = write_shapes(tmp_path / "volumes", dims=3, train=8, unlabelled=0)
    settings = {"preprocess": {"dims": 3, "size": [12, 12, 12], "intensity": "percentile"}, "select": "auc"}
    train(recipe(data.root, 2, 3, **settings), tmp_path / "run")
    assert load_model(tmp_path / "run").description.trained["score"] == "auc"
    first = evaluate(tmp_path / "run", data.root, out=tmp_path / "a")
    for case in data.select("test"):
        stored = nib.load(case.image)
        turned = stored.as_reoriented(nib.orientations.axcodes2ornt(("P", "I", "R")))
        assert not np.array_equal(turned.affine, stored.affine)
        nib.save(nib.Nifti1Image(np.array(turned.dataobj), turned.affine), case.image)
    again = evaluate(tmp_path / "run", data.root, out=tmp_path / "b")
    for a, b in zip(first.cases, again.cases):
        np.testing.assert_array_equal(a.probabilities, b.probabilities)


def test_a_teacher_of_other_preprocessing_is_refused(run: Path, data: Path) -> None:
    with pytest.raises(InputError, match=r"preprocess.size \(20, 20\), the recipe has \(24, 24\)"):
        build(recipe(data, preprocess={"size": [24, 24]}, teacher=str(run)))


def test_info_tells_the_folders(run: Path, data: Path) -> None:
    assert inspect(data)["summary"].startswith("classification dataset of 44 cases of 22 patients")
    assert "classification model, TinyCNN in 2-D" in inspect(run / "model")["summary"]


def test_what_is_refused(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"serves segmentation; the recipe's task is classification"):
        recipe(data, phases=[{"name": "a", "steps": 1, "method": {"kind": "bcp"}}])
    with pytest.raises(InputError, match="unknown key network"):
        recipe(data, network={"kind": "TinyCNN", "featurs": [3]})
    with pytest.raises(InputError, match="too small for DenseNet"):
        build(recipe(data, network={"kind": "DenseNet", "features": 8, "growth": 4}))
    with pytest.raises(InputError, match="no file or folder"):
        predict(run, tmp_path / "nowhere", tmp_path / "out")
    other = write_shapes(tmp_path / "other").root
    text = (other / "dataset.yaml").read_text()
    (other / "dataset.yaml").write_text(text.replace("- image\n", "- t1\n"))
    with pytest.raises(InputError, match="channels"):
        evaluate(run, other, "test", out=tmp_path / "evaluation")


def test_shipped_recipes_are_read() -> None:
    found = list((ROOT / "configs" / "classification").glob("*.yaml"))
    assert len(found) >= 2
    for path in found:
        assert load_recipe(path).task == "classification"
