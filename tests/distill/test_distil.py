"""Distil: its losses add up, its projectors are trained and never ship, its input is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from medkd.distill.losses.dkd import DKDLoss
from medkd.distill.losses.hinton import hinton_kd_loss
from medkd.distill.losses.mgd import MGDLoss
from medkd.distill.methods.distil import Distil, forward
from medkd.distill.options import DistilOptions
from medkd.engine.method import Batch, StepContext
from medkd.engine.randomness import Draws, generator
from medkd.errors import InputError
from medkd.networks.options import BasicUNetOptions

CLASSES = 3
FEATURES = {"student": "upcat_1", "teacher": "upcat_1"}
KINDS = ["kd", "dkd", "dist", "bpkd", "cwd", "fitnets", "attention_transfer", "mgd"]


@dataclass(frozen=True)
class Task:
    primary: str = "dice"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output.float(), label)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"dice": 0.0}


def unet(width: int, dims: int = 2, classes: int = CLASSES, channels: int = 1) -> nn.Module:
    torch.manual_seed(width)
    options = BasicUNetOptions(features=(width, width, width, width, width), norm="instance", dropout=(0.0,))
    return options.build(dims, channels, classes, (32,) * dims)


def batch(dims: int = 2, channels: int = 1) -> dict[str, Batch]:
    image = torch.randn(2, channels, *[32] * dims, generator=generator("image"))
    label = torch.randint(CLASSES, (2, *[32] * dims), generator=generator("label"))
    return {"labelled": Batch(image, label, ("a", "b"), Draws((0, 0, "labelled"), 2))}


def distil(losses: list[dict[str, Any]], dims: int = 2, **values: Any) -> Distil:
    options = DistilOptions(losses=losses, dry_size=32, **values)
    return Distil(unet(4, dims), unet(8, dims), options).train()


def context(step: int = 0, total: int = 12) -> StepContext:
    return StepContext(step, total, step, 0, Task())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_every_loss_teaches_a_student_of_another_width(kind: str, dims: int) -> None:
    paths = FEATURES if kind in ("cwd", "fitnets", "attention_transfer", "mgd") else {}
    method = distil([{"kind": kind, **paths}], dims, label_weight=0.0)
    output = method.step("student", batch(dims), context(11))
    output.loss.backward()
    assert output.loss > 0
    assert all(torch.isfinite(p.grad).all() for p in method.trainable("student") if p.grad is not None)
    assert method.student.get_submodule("conv_0.conv_0.conv").weight.grad.abs().sum() > 0
    projectors = [p for p in method.losses.parameters() if p.requires_grad]
    assert bool(projectors) == (kind in ("cwd", "fitnets", "mgd"))
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in projectors)
    assert all(p.grad is None for p in method.teacher.parameters())


def test_the_loss_is_the_sum_of_its_parts() -> None:
    method = distil([{"kind": "kd", "weight": 0.9, "temperature": 2.0}, {"kind": "dkd", "ramp": 0.5}], label_weight=0.1)
    x = batch()["labelled"]
    with torch.no_grad():
        loss = method.step("student", {"labelled": x}, context(2)).loss
        student, teacher = method.student(x.image), method.teacher(x.image)
        parts = (
            0.1 * nn.functional.cross_entropy(student, x.labels),
            0.9 * hinton_kd_loss(student, teacher, 2.0),
            3 / 6 * DKDLoss(CLASSES)(student, teacher, x.labels),
        )
    torch.testing.assert_close(loss, sum(parts))


def test_the_ramp_of_dkd_ends_after_a_twelfth_of_the_phase() -> None:
    method = distil([{"kind": "dkd"}], label_weight=0.0)
    with torch.no_grad():
        values = [float(method.step("student", batch(), context(step, 24)).loss) for step in (0, 1, 2, 23)]
    assert values[0] == pytest.approx(values[1] / 2)
    assert values[1] == values[2] == values[3]


def test_features_are_those_of_the_named_modules() -> None:
    method = distil([{"kind": "mgd", **FEATURES}], label_weight=0.0)
    x = batch()["labelled"]
    with torch.no_grad():
        loss = method.step("student", {"labelled": x}, context()).loss
        s, t = (forward(n, ["upcat_1"], x.image)[1]["upcat_1"] for n in (method.student, method.teacher))
        assert (s.shape[1], t.shape[1]) == (4, 8)
        mgd = method.losses[0]
        assert isinstance(mgd, MGDLoss)
        expected = mgd(s, t, x.draws.uniform("mask 0", *mgd.mask_shape(s)))
    torch.testing.assert_close(loss, expected)


def test_the_dry_pass_leaves_no_trace() -> None:
    fresh = unet(4)
    fresh.eval()
    fresh.get_submodule("down_1").train()
    before = {k: v.clone() for k, v in fresh.state_dict().items()}
    modes = [m.training for m in fresh.modules()]
    method = Distil(fresh, unet(8), DistilOptions(losses=[{"kind": "fitnets", **FEATURES}], dry_size=32))
    assert all(torch.equal(v, before[k]) for k, v in fresh.state_dict().items())
    assert [m.training for m in fresh.modules()] == modes
    assert not any(m._forward_hooks for m in method.modules())


def test_projectors_are_saved_and_do_not_ship() -> None:
    method = distil([{"kind": "fitnets", **FEATURES}])
    assert any(name.startswith("losses.0.regressor") for name in method.state_dict())
    assert not any(name.startswith("teacher.network") for name in method.state_dict())
    assert method.candidates() == {"student": method.student}
    assert method.student.state_dict().keys() == unet(4).state_dict().keys()
    regressor = next(iter(method.losses.parameters()))
    assert any(regressor is p for p in method.trainable("student"))


def test_a_teacher_of_other_classes_is_refused() -> None:
    with pytest.raises(InputError, match="the teacher tells 4 classes apart, the student 3"):
        Distil(unet(4), unet(8, classes=4), DistilOptions(dry_size=32))


@pytest.mark.parametrize("side", ["student", "teacher"])
def test_a_path_that_is_not_there_names_the_nearest(side: str) -> None:
    with pytest.raises(InputError, match=rf"the {side}, BasicUNet, has no module 'upcat_9'; it has upcat_4, upcat_3"):
        distil([{"kind": "fitnets", **FEATURES, side: "upcat_9"}])


def test_a_network_without_convolutions_is_refused() -> None:
    with pytest.raises(InputError, match="Linear has no convolution"):
        Distil(nn.Linear(3, 3), unet(8), DistilOptions())


def test_a_list_without_a_loss_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        DistilOptions(losses=[])
