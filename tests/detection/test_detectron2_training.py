"""Training on detectron2's detector through the engine: from a recipe, by Grounded Teacher, from its model folder.

Needs the real detectron2, built from source (docs/detection.md). docs/results/detectron2_tests.log is a run of it.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_sites
import torch
from cell_images import write_cells
from safetensors.torch import load_file
from tiny_sites import Site, context, same, started, tensors
from torch import nn

from medkd.config.load import parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.detection_dataset import write_detection_dataset
from medkd.detection.adabn import AdaBN
from medkd.detection.detectors.options import Detectron2Options
from medkd.detection.grounded_teacher import GroundedTeacher
from medkd.detection.source_free_options import AdaBNOptions, GroundedTeacherOptions, StaticLabels
from medkd.engine.randomness import seeded
from medkd.runs.evaluate import evaluate
from medkd.runs.predict import predict
from medkd.runs.train import train

pytest.importorskip("detectron2", reason="detectron2 is not installed; it is built from source: docs/detection.md")

ANCHORS = {"SIZES": [[16], [32], [64], [128], [256]]}
THIN: dict[str, Any] = {
    "MODEL": {
        "BACKBONE": {"FREEZE_AT": 0},
        "RESNETS": {"NORM": "BN", "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 8, "WIDTH_PER_GROUP": 4},
        "FPN": {"OUT_CHANNELS": 16},
        "ANCHOR_GENERATOR": ANCHORS,
        "RPN": {"POST_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TEST": 50},
        "ROI_HEADS": {"BATCH_SIZE_PER_IMAGE": 64},
        "ROI_BOX_HEAD": {"FC_DIM": 32},
    }
}


@pytest.fixture
def sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of the methods, on this detector: the same weights every time, statistics of such images."""
    with seeded("tiny detectron2"):
        made: Any = Detectron2Options(settings=THIN).build(2, 3, 2)
    with torch.no_grad():
        for step in range(30):
            made.feature_map(Site().batch(step).image)
        made.roi_heads.box_predictor.cls_score.bias[2] -= 1.0  # less background: untrained it finds things
    state = made.state_dict()

    def detector(classes: int = 2, norm: str = "batch") -> nn.Module:
        again = Detectron2Options(settings=THIN).build(2, 3, classes)
        again.load_state_dict(state)
        return again

    monkeypatch.setattr(tiny_sites, "detector", detector)


def grounded(tmp_path: Path) -> GroundedTeacherOptions:
    """All its parts at work: teacher, static labels and an expert, mixing, the weighted loss."""
    places = {0: [4, 6, 20, 16], 1: [28, 28, 16, 16]}
    rows = [{"image_id": f"case{i}", "category_id": k, "bbox": box, "score": 0.9}
            for i in range(2) for k, box in places.items()]  # fmt: skip
    (tmp_path / "e.json").write_text(json.dumps(rows))
    (tmp_path / "m.json").write_text("[[0.9, 0.1], [0.4, 0.6]]")
    return GroundedTeacherOptions(
        threshold=0.2, decay=0.5, static=StaticLabels(weight=1.0, threshold=0.2), crop_side=8, mixing=1.0,
        source_matrix=str(tmp_path / "m.json"),
        expert={"file": str(tmp_path / "e.json"), "classes": ("a", "b"), "weight": 1.0},
    )  # fmt: skip


@pytest.mark.usefixtures("sites")
def test_grounded_teacher_trains_and_resumes(tmp_path: Path) -> None:
    options, runs = grounded(tmp_path), []
    run = started(options)
    method: Any = run.method
    assert isinstance(method, GroundedTeacher)
    before, sets = tensors(method.student), method.label_sets(Site().batch(0), context())
    assert [s.source for s in sets] == ["teacher", "expert", "static"]
    assert all(len(t) > 0 for s in sets for t in s.targets if t is not None)
    assert method.contexts["target"].average.shape == (2, 2)
    teacher = tensors(method.teacher.network)
    hook = method.student.backbone.register_forward_hook(lambda *_: runs.append(1))
    for _ in range(4):
        run.train_one()
    hook.remove()
    assert len(runs) == 4  # one forward of the student's backbone a step, for three sets of labels
    assert run.skipped == 0
    moved = [n for n, p in method.student.named_parameters() if not torch.equal(p, before[n])]
    assert len(moved) == len(list(method.student.parameters()))
    assert not same(tensors(method.teacher.network), teacher)
    assert all(not p.requires_grad or p.grad is None for p in method.teacher.network.parameters())
    assert not any(m.training for m in method.teacher.network.modules())
    assert int(method.context("target").updates) == 4
    assert method.context("target").average.abs().sum() > 0

    first, second = started(options), started(options)
    for _ in range(2):
        first.train_one()
    second.restore(first.state())
    for _ in range(2):
        second.train_one()
    assert same(tensors(second.method), tensors(method))


@pytest.mark.usefixtures("sites")
def test_the_teacher_is_the_average_and_integer_buffers_are_copied(tmp_path: Path) -> None:
    run = started(grounded(tmp_path))
    run.train_one()
    old = tensors(run.method.teacher.network)
    run.train_one()
    student, now = tensors(run.method.student), tensors(run.method.teacher.network)
    for name, value in now.items():
        wanted = 0.5 * old[name] + 0.5 * student[name] if value.is_floating_point() else student[name]
        torch.testing.assert_close(value, wanted)


@pytest.mark.usefixtures("sites")
def test_adabn_finds_the_batch_norms() -> None:
    run = started(AdaBNOptions(), steps=2)
    assert isinstance(run.method, AdaBN)
    before = tensors(run.method.student)
    for _ in range(2):
        run.train_one()
    after = tensors(run.method.student)
    changed = {n.rsplit(".", 1)[1] for n in before if not torch.equal(before[n], after[n])}
    assert changed == {"running_mean", "running_var", "num_batches_tracked"}


def recipe(data: Path, phases: list[dict[str, Any]], **changes: Any) -> Recipe:
    tree: dict[str, Any] = {
        "task": "detection", "data": str(data), "save_every": 3, "preprocess": {"size": [64, 64]},
        "detector": {"kind": "detectron2", "settings": THIN}, "labelled": {"size": 2}, "phases": phases,
        "unlabelled": {"size": 2}, "runtime": {"device": "cpu"},
    }  # fmt: skip
    return parse_recipe(tree | changes)


def test_from_a_recipe_to_detections_and_on_to_another_site(tmp_path: Path) -> None:
    data = write_cells(tmp_path / "cells").root
    optimizer = {"kind": "adamw", "lr": 0.003, "clip": 10.0}
    source = [{"name": "source", "steps": 6, "validate_every": 6, "method": {"kind": "supervised_detection"},
               "optimizer": optimizer}]  # fmt: skip
    train(recipe(data, source), tmp_path / "source")
    assert load_model(tmp_path / "source").description.detector.kind == "detectron2"  # type: ignore[attr-defined]
    evaluate(tmp_path / "source", data, "test", out=tmp_path / "evaluation")
    predict(tmp_path / "source", data / "images", tmp_path / "out")
    assert (tmp_path / "out" / "detections.json").is_file()

    target = write_cells(tmp_path / "target")
    cases = tuple(replace(c, labelled=c.split != "train") for c in target.cases)
    known = {c.id: target.boxes[c.id] for c in cases if c.labelled}
    write_detection_dataset(replace(target, cases=cases, boxes=known), {"licence": "generated"})
    adapt = [{"name": "adapt", "steps": 4, "validate_every": 4, "hand_over": "last", "candidate": "teacher",
              "method": {"kind": "grounded_teacher", "threshold": 0.05, "crop_side": 8, "mixing": 0.0},
              "optimizer": optimizer}]  # fmt: skip
    train(recipe(target.root, adapt, init=str(tmp_path / "source")), tmp_path / "adapted")
    names = load_file(tmp_path / "adapted" / "model" / "model.safetensors").keys()
    assert names == load_file(tmp_path / "source" / "model" / "model.safetensors").keys()
    assert {name.split(".")[0] for name in names} == {"backbone", "proposal_generator", "roi_heads"}


@pytest.mark.slow
def test_a_resnet_50_learns_and_a_run_that_was_cut_goes_on(tmp_path: Path) -> None:
    """detectron2's own sizes, from random weights: 20 images, 50 steps."""
    data = write_cells(tmp_path / "cells", train=20).root
    network = {"BACKBONE": {"FREEZE_AT": 0}, "RESNETS": {"NORM": "BN"}, "ANCHOR_GENERATOR": ANCHORS}
    phases = [{"name": "source", "steps": 50, "validate_every": 50, "method": {"kind": "supervised_detection"},
               "optimizer": {"kind": "adamw", "lr": 0.0003, "clip": 10.0}}]  # fmt: skip
    wanted = recipe(data, phases, detector={"kind": "detectron2", "settings": {"MODEL": network}}, save_every=25)
    train(wanted, tmp_path / "whole")
    log = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    losses = [sum(v for k, v in row.items() if k.startswith("loss_")) for row in log if "loss_box" in row]
    print("loss at steps 20, 40, 50:", [round(v, 3) for v in losses])
    assert losses[-1] < 0.7 * losses[0]

    class Cut(Exception):
        pass

    def stops(setup: Any) -> Any:
        stream = setup.phases[0].streams["labelled"]

        class Stream:
            def batch(self, step: int) -> Any:
                if step == 30:
                    raise Cut
                return stream.batch(step)

        setup.phases[0].streams["labelled"] = Stream()
        return setup.task

    with pytest.raises(Cut):
        train(wanted, tmp_path / "cut", watch=stops)
    train(wanted, tmp_path / "cut", resume=True)
    whole, cut = (load_file(tmp_path / name / "weights" / "last.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
