"""Distil for detectors: maps by path, classes on shared regions, and the path through `train`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
import yaml
from cell_images import write_cells
from torch import Tensor, nn

from medkd.config.load import parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.targets import Target
from medkd.detection.detectors.options import (
    FasterRCNNOptions,
    FCOSOptions,
    MonaiRetinaNetOptions,
    RetinaNetOptions,
    TinyOptions,
)
from medkd.detection.distil import DistilDetector
from medkd.detection.options import DistilDetectionOptions
from medkd.distill.loss_options import LossUnion
from medkd.distill.losses.dkd import dkd_loss
from medkd.distill.losses.hinton import hinton_kd_loss
from medkd.engine.checkpoint import load_state
from medkd.engine.method import Batch, StepContext
from medkd.engine.randomness import Draws, generator, seeded
from medkd.errors import InputError
from medkd.runs.evaluate import evaluate
from medkd.runs.train import build, train

FINEST = {"student": "backbone.fpn.layer_blocks.0", "teacher": "backbone.fpn.layer_blocks.0"}
BODY = {"student": "backbone.body.layer2", "teacher": "backbone.body.layer2"}
LOSSES: dict[str, dict[str, Any]] = {
    "kd": {},
    "dkd": {"beta": 0.25, "temperature": 1.0},
    "dist": {},
    "cwd": FINEST,
    "fitnets": FINEST,
    "attention_transfer": FINEST,
    "mgd": FINEST,
    "reviewkd": {"student": ["backbone.fpn.layer_blocks.1", "backbone.fpn.layer_blocks.0"],
                 "teacher": ["backbone.fpn.layer_blocks.1", "backbone.fpn.layer_blocks.0"]},
    "sp": BODY,
    "rkd": BODY,
}  # fmt: skip
ONE_STAGE = {"bernoulli_kd"}


class Task:
    primary = "score"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        raise AssertionError("a detector computes its own losses")

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"score": 0.0}


def rcnn(pyramid: int, classes: int = 2, name: str = "a") -> nn.Module:
    backbone = TinyOptions(features=(8, 12), pyramid=pyramid, norm="group")
    with seeded("distil detector", pyramid, name):
        return FasterRCNNOptions(
            backbone=backbone, anchor_scale=4, head=16, proposals=40, rpn_samples=64, roi_samples=32
        ).build(2, 3, classes)


def batch(dims: int = 2, size: int = 3) -> dict[str, Batch]:
    image = torch.rand(size, 3 if dims == 2 else 1, *[64] * dims, generator=generator("detection batch", dims))
    corners = torch.tensor([[8.0] * dims + [24.0] * dims, [30.0] * dims + [50.0] * dims])
    targets = tuple(Target(corners, torch.tensor([0, 1])) for _ in range(size))
    names = tuple(f"image{i}" for i in range(size))
    return {"labelled": Batch(image, targets, names, Draws((0, 0, "labelled"), size))}


def distil(losses: list[dict[str, Any]], student: nn.Module, teacher: nn.Module, **values: Any) -> DistilDetector:
    return DistilDetector(student, teacher, DistilDetectionOptions(losses=losses, **values)).train()


def step(method: DistilDetector, x: dict[str, Batch] | None = None) -> Any:
    with seeded("step"):
        return method.step("student", x or batch(), StepContext(11, 12, 11, 0, Task()))


def test_the_list_of_losses_is_complete() -> None:
    union, _ = get_args(LossUnion)
    kinds = {options.model_fields["kind"].default: options for options in get_args(union)}
    assert {kind for kind, options in kinds.items() if "detection" in options.tasks} == set(LOSSES) | ONE_STAGE


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_teaches_a_detector_of_another_width(kind: str) -> None:
    method = distil([{"kind": kind, **LOSSES[kind]}], rcnn(8), rcnn(16), label_weight=0.0)
    output = step(method)
    output.loss.backward()
    assert output.loss > 0
    assert method.student.get_submodule("backbone.body.layer1.0.0").weight.grad.abs().sum() > 0
    assert [n for n, p in method.losses.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for p in method.teacher.parameters())
    head = method.student.get_submodule("roi_heads.box_predictor.cls_score").weight.grad
    assert (head is not None and bool(head.any())) == (kind in ("kd", "dkd", "dist"))


def test_classes_are_compared_on_the_regions_that_the_student_sampled() -> None:
    """By hand: the same regions into both heads."""
    method = distil([{"kind": "kd", "temperature": 2.0}, {"kind": "dkd"}], rcnn(8), rcnn(16), label_weight=0.0)
    x, asked = batch(), []
    with torch.no_grad():
        output = step(method, x)
        student: Any = method.student
        with seeded("step"):
            student.losses(
                x["labelled"].image, [x["labelled"].targets], lambda rois, _: asked.append(rois) or rois.mean()
            )
        (rois,) = asked
        assert [r.shape[1] for r in rois.regions] == [4, 4, 4]
        assert sum(map(len, rois.regions)) == len(rois.logits) == len(rois.gt)
        torch.testing.assert_close(student.class_logits(x["labelled"].image, rois.regions), rois.logits)
        teacher: Any = method.teacher.network
        theirs = teacher.class_logits(x["labelled"].image, rois.regions)
        torch.testing.assert_close(output.logs["loss_kd"], hinton_kd_loss(rois.logits, theirs, 2.0))
        torch.testing.assert_close(output.logs["loss_dkd"], dkd_loss(rois.logits, theirs, rois.gt))


def test_a_teacher_equal_to_the_student_teaches_nothing() -> None:
    method = distil([{"kind": "kd"}, {"kind": "cwd", **FINEST}], rcnn(8), rcnn(8), label_weight=0.0)
    assert abs(step(method).loss.item()) < 1e-6
    other = distil([{"kind": "kd"}, {"kind": "cwd", **FINEST}], rcnn(8), rcnn(8, name="b"), label_weight=0.0)
    assert step(other).loss.item() > 1e-4


def test_labels_are_the_detectors_own_losses() -> None:
    method = distil([{"kind": "kd", "weight": 0.0}], rcnn(8), rcnn(16))
    x = batch()["labelled"]
    with torch.no_grad():
        student: Any = method.student
        with seeded("step"):
            (losses,) = student.losses(x.image, [x.targets])
        torch.testing.assert_close(step(method).loss, losses.total())


DENSE: list[tuple[Any, Any, int]] = [
    (RetinaNetOptions(backbone=TinyOptions(features=(8, 12), pyramid=8)),
     RetinaNetOptions(backbone=TinyOptions(features=(8, 12), pyramid=16)), 2),
    (FCOSOptions(backbone=TinyOptions(features=(8, 12), pyramid=8)),
     FCOSOptions(backbone=TinyOptions(features=(8, 12), pyramid=16)), 2),
    (MonaiRetinaNetOptions(features=(4, 8), pyramid=8), MonaiRetinaNetOptions(features=(4, 8), pyramid=16), 3),
]  # fmt: skip


@pytest.mark.parametrize(("small", "large", "dims"), DENSE, ids=["retinanet", "fcos", "monai_3d"])
def test_sigmoids_of_one_stage_detectors_are_compared_at_every_anchor(small: Any, large: Any, dims: int) -> None:
    with seeded("dense"):
        student, teacher = (o.build(dims, 3 if dims == 2 else 1, 2) for o in (small, large))
    method = distil([{"kind": "bernoulli_kd"}], student, teacher, label_weight=0.0)
    x = batch(dims, size=1 if dims == 3 else 3)
    output = step(method, x)
    output.loss.backward()
    with torch.no_grad():
        s, t = (n.class_logits(x["labelled"].image).sigmoid() for n in (method.student, method.teacher.network))
        by_hand = t * (t / s).log() + (1 - t) * ((1 - t) / (1 - s)).log()
    torch.testing.assert_close(output.loss.detach(), by_hand.mean(), rtol=1e-3, atol=1e-8)
    assert any(p.grad is not None and p.grad.any() for p in method.student.parameters())


def test_detectors_of_different_stages_share_maps_alone() -> None:
    dense = RetinaNetOptions(backbone=TinyOptions(features=(8, 12), pyramid=16)).build(2, 3, 2)
    output = step(distil([{"kind": "fitnets", **FINEST}], rcnn(8), dense, label_weight=0.0))
    assert output.loss > 0
    with pytest.raises(
        InputError, match=r"kd compares the softmax of two-stage detectors; student and teacher are Torc"
    ):
        distil([{"kind": "kd"}], rcnn(8), dense)
    with pytest.raises(InputError, match=r"bernoulli_kd compares the sigmoids of one-stage detectors"):
        distil([{"kind": "bernoulli_kd"}], rcnn(8), rcnn(16))
    other = RetinaNetOptions(backbone=TinyOptions(features=(8, 12, 12), pyramid=16)).build(2, 3, 2)
    with pytest.raises(InputError, match=r"the student has \d+ anchors in an image, the teacher \d+"):
        distil([{"kind": "bernoulli_kd"}], dense, other)
    with pytest.raises(InputError, match="the teacher finds 3 classes, the student 2"):
        distil([{"kind": "kd"}], rcnn(8), rcnn(16, classes=3))
    with pytest.raises(InputError, match=r"has no module 'backbone\.fpn\.layer_blocks\.9'"):
        distil([{"kind": "fitnets", **FINEST, "student": "backbone.fpn.layer_blocks.9"}], rcnn(8), rcnn(16))
    with pytest.raises(InputError, match=r"rpn.head of TorchvisionRCNN takes no part in its forward"):
        distil([{"kind": "fitnets", "student": "rpn.head", "teacher": "rpn.head"}], rcnn(8), rcnn(16))


# Through `train`


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cells(tmp_path_factory.mktemp("distilled cells") / "data").root


def detector(width: int) -> dict[str, Any]:
    return {
        "kind": "faster_rcnn", "backbone": {"kind": "tiny", "features": [8, 12], "pyramid": width},
        "anchor_scale": 4, "head": 16, "proposals": 50, "roi_samples": 32,
    }  # fmt: skip


def recipe(data: Path, phases: list[dict[str, Any]], **values: Any) -> Recipe:
    optimizer = {"kind": "adamw", "lr": 0.003, "clip": 10.0}
    tree: dict[str, Any] = {
        "task": "detection", "data": str(data), "preprocess": {"size": [64, 64]}, "detector": detector(8),
        "labelled": {"size": 2}, "runtime": {"device": "cpu"},
        "phases": [{"optimizer": optimizer, "validate_every": phase["steps"], **phase} for phase in phases],
    }  # fmt: skip
    return parse_recipe(tree | values)


TEACHER = {"name": "teacher", "method": {"kind": "supervised_detection"}, "detector": detector(16), "steps": 3}
STUDENT = {
    "name": "student", "steps": 3,
    "method": {"kind": "distil_detection", "losses": [{"kind": "dkd", "beta": 0.25}, {"kind": "cwd", **FINEST}]},
}  # fmt: skip


def test_a_student_is_distilled_evaluated_and_ships_alone(data: Path, tmp_path: Path) -> None:
    train(recipe(data, [TEACHER | {"becomes": "teacher"}, STUDENT]), tmp_path / "run")
    state = load_state(tmp_path / "run/last.safetensors")
    assert state["method"]["losses.1.projector.weight"].shape[:2] == (16, 8)
    assert not any(name.startswith("teacher.network") for name in state["method"])
    model: Any = load_model(tmp_path / "run")
    assert model.description.detector.backbone.pyramid == 8
    assert model.network.backbone.out_channels == 8
    assert evaluate(tmp_path / "run", data, "test", out=tmp_path / "evaluation").summary["images"] == 2


def test_a_model_folder_is_a_teacher(data: Path, tmp_path: Path) -> None:
    train(recipe(data, [TEACHER]), tmp_path / "teacher")
    made = recipe(data, [STUDENT], teacher=str(tmp_path / "teacher"))
    train(made, tmp_path / "run")
    file = tmp_path / "teacher/model/model.yaml"
    text = file.read_text()
    file.write_text(text.replace("- round\n- square", "- square\n- round"))
    with pytest.raises(InputError, match="has the classes square, round; the dataset round, square; a detector's must"):
        build(made)
    tree = yaml.safe_load(text)
    file.write_text(yaml.safe_dump(tree | {"preprocess": tree["preprocess"] | {"intensity": "percentile"}}))
    with pytest.raises(InputError, match=r"trained with preprocess\.intensity percentile, the recipe has full"):
        build(made)
    file.write_text(yaml.safe_dump(tree | {"channels": ["green", "red", "blue"]}))
    with pytest.raises(InputError, match=r"has the channels green, red, blue; the dataset red, green, blue"):
        build(made)


def test_losses_of_other_tasks_are_refused(data: Path) -> None:
    phase = {"name": "student", "steps": 1, "method": {"kind": "distil_detection"}}
    for kind, why in (("pld", "a detector computes itself"), ("bpkd", "a label a voxel")):
        phase["method"] = {"kind": "distil_detection", "label_weight": 0.0, "losses": [{"kind": kind}]}
        with pytest.raises(InputError, match=rf"losses has {kind}, which does not serve detection: .*{why}"):
            recipe(data, [phase], teacher="somewhere")
    with pytest.raises(InputError, match="distil, which serves segmentation, classification"):
        recipe(data, [phase | {"method": {"kind": "distil"}}], teacher="somewhere")
