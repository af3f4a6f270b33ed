"""3-D from end to end by the shipped recipes: generated nodules, a source detector, Grounded Teacher on unlabelled
volumes of another scanner, scores in mm, and new scans."""

from __future__ import annotations

import csv
import importlib.util
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from safetensors.torch import load_file

from medkd.cli.app import run
from medkd.data.detection_dataset import HIDDEN
from medkd.data.detection_phantom import NODULES, SPACING
from medkd.data.image_cases import ImageCase
from medkd.errors import InputError
from medkd.imaging.nifti import read_nifti
from medkd.runs.tasks.detection_evaluation import scale

ROOT = Path(__file__).parents[2]


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generated_detection", ROOT / "data_prep" / "generated_detection.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_boxes_of_volumes_are_scored_in_mm() -> None:
    def case(shape: tuple[int, ...], spacing: tuple[float, ...] | None) -> ImageCase:
        return ImageCase("a", "a", "test", True, Path("a"), spacing, shape)

    assert scale(case((4, 5, 6), (0.5, 1.0, 2.5))).tolist() == [0.5, 1.0, 2.5, 0.5, 1.0, 2.5]
    assert scale(case((4, 5, 6), None)).tolist() == [1.0] * 6
    assert scale(case((4, 5), (0.1, 0.1))).tolist() == [1.0] * 4


def test_the_generator_says_what_it_cannot_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="three numbers"):
        generator().prepare_generated("nodules", "source", tmp_path / "out", (0, 1, 1))


@pytest.mark.slow
def test_from_volumes_to_detections_at_a_new_site(tmp_path: Path) -> None:
    recipes, made = ROOT / "configs" / "detection", generator()
    made.prepare_generated("nodules", "source", tmp_path / "s", (24, 2, 4))
    target = made.prepare_generated("nodules", "target", tmp_path / "t", (12, 2, 12), "none")
    assert target.cases[0].spacing == SPACING
    source, adapted = tmp_path / "source", tmp_path / "gt"
    steps = ["phases.0.steps=120", "phases.0.validate_every=120"]
    assert run(["train", str(recipes / "source_nodules_3d.yaml"), f"data={tmp_path / 's'}", *steps, "--out",
                str(source)]) == 0  # fmt: skip
    (target.root / HIDDEN).unlink()  # the boxes of the unlabelled volumes are not needed
    steps = ["phases.0.steps=6", "phases.1.steps=12", "phases.1.validate_every=12"]
    assert run(["train", str(recipes / "grounded_teacher_nodules_3d.yaml"), f"data={tmp_path / 't'}",
                f"init={source / 'model'}", *steps, "--out", str(adapted)]) == 0  # fmt: skip
    before, after = (load_file(folder / "model" / "model.safetensors") for folder in (source, adapted))
    assert before.keys() == after.keys()
    assert any(not np.array_equal(before[name], after[name]) for name in before)

    assert run(["evaluate", str(adapted), "--data", str(tmp_path / "t"), "--out", str(tmp_path / "e")]) == 0
    summary = json.loads((tmp_path / "e" / "summary.json").read_text())
    assert summary["coordinates"] == "mm"
    assert summary["froc"]["rule"] == "iou>=0.1"
    everything = summary["froc"]["all_classes"]
    assert everything["lesions"] == sum(len(target.truth(c)) for c in target.select("test"))
    assert summary["mean_over_classes"]["at"]["0.1"]["value"] > 0.1  # a detector of nothing has 0
    assert everything["at"]["1"]["value"] > 0.2
    assert everything["centre_error_median"] < 5  # mm; nodules have a radius of 3 to 7

    (tmp_path / "new").mkdir()
    case = target.select("test")[0]
    (tmp_path / "new" / case.image.name).write_bytes(case.image.read_bytes())
    assert run(["predict", str(adapted), "-i", str(tmp_path / "new"), "-o", str(tmp_path / "found")]) == 0
    extent = read_nifti(case.image).array.shape
    with (tmp_path / "found" / "detections.csv").open() as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["class"] in NODULES
        for axis, limit in zip("xyz", extent):
            assert 0 <= float(row[f"{axis}0"]) < float(row[f"{axis}1"]) <= limit + 1e-3
