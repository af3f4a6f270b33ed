"""The path of detection: train a recipe, evaluate, predict; stop and resume; what is refused."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from cell_images import write_cells
from safetensors.torch import load_file

from medkd.cli.app import run as medkd
from medkd.config.load import load_recipe, parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.errors import InputError
from medkd.runs.evaluate import evaluate
from medkd.runs.predict import predict
from medkd.runs.train import train

ROOT = Path(__file__).parents[2]


def recipe(data: Path, steps: int = 6, **changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "task": "detection", "data": str(data), "save_every": 3,
        "preprocess": {"size": [64, 64]},
        "detector": {
            "kind": "faster_rcnn", "backbone": {"kind": "tiny", "features": [8, 16, 24], "pyramid": 16},
            "anchor_scale": 4, "head": 32, "proposals": 100, "roi_samples": 64,
        },
        "labelled": {"size": 2, "augment": {"flip": [0.5, 0.0]}},
        "phases": [{
            "name": "source", "steps": steps, "validate_every": steps, "method": {"kind": "supervised_detection"},
            "optimizer": {"kind": "adamw", "lr": 0.003, "clip": 10.0},
        }],
        "runtime": {"device": "cpu"},
    }  # fmt: skip
    return parse_recipe(tree | changes)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("cells") / "data").root


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("run") / "run"
    train(recipe(data, steps=60), out)
    return out


def test_a_run_folder_and_its_model(run: Path, data: Path) -> None:
    names = {path.name for path in run.iterdir()}
    assert names >= {"recipe.yaml", "log.jsonl", "first_batch.png", "curves.png", "report.html", "model", "weights"}
    model = load_model(run)
    assert model.description.task == "detection"
    assert model.description.classes == ("round", "square")
    assert model.description.trained["score"] == "ap50"
    assert "Not a medical device" in (run / "model" / "model_card.md").read_text()


def test_evaluation_in_the_coordinates_of_the_images(run: Path, data: Path, tmp_path: Path) -> None:
    done = evaluate(run, data, "test", out=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "detections.json", "detections.csv", "cases.csv", "summary.json", "overlays.png", "report.html",
    }  # fmt: skip
    assert done.summary["mean_over_classes"]["at"]["0.5"]["value"] > 0.5
    assert [row[0] for row in done.table[1]] == ["round", "square", "mean"]
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["images"] == 2
    assert summary["coordinates"] == "stored pixels"
    found = summary["froc"]
    assert found["rule"] == "iou>=0.2"
    assert "found at 1 false alarm an image, iou>=0.2" in done.table[0]
    both = [found["classes"][name]["lesions"] for name in ("round", "square")]
    assert found["all_classes"]["lesions"] == sum(both) == 4
    assert found["all_classes"]["at"]["1"]["value"] > 0.5


def test_prediction_writes_coco_results_tables_and_pictures(run: Path, data: Path, tmp_path: Path) -> None:
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for name in ("test0.png", "test1.png"):
        (source / name).write_bytes((data / "images" / name).read_bytes())
    (source / "broken.png").write_bytes(b"no picture")
    done = predict(run, source, out)
    assert len(done.refused) == 1
    assert "broken.png" in done.refused[0]
    results = json.loads((out / "detections.json").read_text())
    assert {row["file_name"] for row in results} == {"test0.png", "test1.png"}
    for row in results:
        x, y, w, h = row["bbox"]
        assert 0 <= x < x + w <= 100.001
        assert 0 <= y < y + h <= 80.001
        assert row["category"] == ("round", "square")[row["category_id"] - 1]
    with (out / "detections.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(results)
    assert {path.name for path in (out / "pictures").iterdir()} == {"test0.png", "test1.png"}
    assert predict(run, source, out).kept == [out / "detections.json"]


def test_the_command_line_speaks_of_boxes(
    run: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["predict", str(run), "-i", str(data / "images" / "test0.png"), "-o", str(tmp_path / "out")]
    assert medkd(arguments) == 0
    found = len(json.loads((tmp_path / "out" / "detections.json").read_text()))
    assert f"images: 1 looked at, 0 refused; boxes: {found} above 0.05" in capsys.readouterr().out
    assert medkd(arguments) == 0
    assert "is kept (it existed)" in capsys.readouterr().out
    for verb, word in (("predict", "boxes"), ("evaluate", "Detection: AP50")):
        assert medkd([verb, "--help"]) == 0
        assert word in " ".join(capsys.readouterr().out.split())


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


def test_a_model_starts_from_another(run: Path, data: Path, tmp_path: Path) -> None:
    train(recipe(data, steps=1, init=str(run)), tmp_path / "more")
    with pytest.raises(InputError, match="another network"):
        train(recipe(data, detector={"kind": "fcos"}, init=str(run)), tmp_path / "other")


def test_what_is_refused(run: Path, data: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"serves segmentation; the recipe's task is detection"):
        recipe(data, phases=[{"name": "a", "steps": 1, "method": {"kind": "bcp"}}])
    with pytest.raises(InputError, match="unknown key detector"):
        recipe(data, detector={"kind": "faster_rcnn", "ancors": 3})
    with pytest.raises(InputError, match="no file or folder"):
        predict(run, tmp_path / "nowhere", tmp_path / "out")
    text = (data / "dataset.yaml").read_text()
    other = write_cells(tmp_path / "other").root
    (other / "dataset.yaml").write_text(text.replace("- red\n- green\n- blue", "- grey"))
    with pytest.raises(InputError, match="channels"):
        evaluate(run, other, "test", out=tmp_path / "evaluation")


def test_shipped_recipes_are_read() -> None:
    for path in (ROOT / "configs" / "detection").glob("*.yaml"):
        assert load_recipe(path).task == "detection"
