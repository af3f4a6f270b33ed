"""What the tool warns of is readable where people run it."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import yaml

from medkd.cli.app import run, say_warning
from medkd.config.load import parse_recipe
from medkd.data.detection_phantom import write_phantom
from medkd.runs.prepare_detection import prepare_detection
from medkd.runs.train import train

GROUNDED = {"kind": "grounded_teacher", "threshold": 0.1}


@pytest.mark.parametrize("background", [False, True])
def test_train_says_that_one_class_makes_the_relational_module_inert(
    background: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every published medical run of Grounded Teacher has one class: its user must be told."""
    write_phantom(tmp_path / "raw", "target", (2, 1, 0))
    boxes, source = tmp_path / "raw" / "boxes.csv", tmp_path / "source"
    for name, labelled in (("labelled", "all"), ("data", "none")):
        prepare_detection(tmp_path / "raw", tmp_path / name, boxes=boxes, labelled=labelled, keep_identifiers=True)
    recipe = {
        "task": "detection", "preprocess": {"size": [48, 36], "intensity": "percentile"},
        "detector": {"kind": "faster_rcnn", "backbone": {"kind": "tiny", "features": [8, 8], "pyramid": 8}, "head": 8,
                     "proposals": 10, "rpn_samples": 16, "roi_samples": 8},
        "unlabelled": {"size": 2}, "runtime": {"device": "cpu"},
    }  # fmt: skip
    first = {"name": "train", "steps": 1, "method": {"kind": "supervised_detection"}}
    train(parse_recipe(recipe | {"data": str(tmp_path / "labelled"), "phases": [first]}), source)
    adapt = {
        "name": "adapt",
        "steps": 1,
        "candidate": "teacher",
        "method": GROUNDED | {"include_background": background},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe | {"init": str(source), "phases": [adapt]}))
    with warnings.catch_warnings():
        warnings.simplefilter("default")  # the suite turns them into errors
        code = run(
            ["train", str(tmp_path / "recipe.yaml"), f"data={tmp_path / 'data'}", "--out", str(tmp_path / "run")]
        )
    said = " ".join(capsys.readouterr().err.split())  # the console may break lines
    assert code == 0
    inert = "warning: a relational context of one class is [[1]] whatever happens: it mixes nothing and weights nothing"
    assert (inert in said) == (not background)
    assert "grounded_teacher.py" not in said


def test_warnings_of_others_keep_their_place(capsys: pytest.CaptureFixture[str]) -> None:
    say_warning("old", DeprecationWarning, "/somewhere/else.py", 3)
    assert "/somewhere/else.py:3: DeprecationWarning: old" in capsys.readouterr().err
