"""Distil: its losses add up, its projectors are trained and never ship, its input is checked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from medkd.config.load import parse_recipe
from medkd.distill.loss_options import LossUnion
from medkd.distill.losses.dkd import DKDLoss
from medkd.distill.losses.hinton import hinton_kd_loss
from medkd.distill.losses.mgd import MGDLoss
from medkd.distill.losses.pld import pld_loss
from medkd.distill.losses.rkd import rkd_loss
from medkd.distill.methods.distil import Distil
from medkd.distill.methods.forward import tapped
from medkd.distill.options import DistilOptions
from medkd.engine.method import Batch, StepContext
from medkd.engine.randomness import Draws, generator
from medkd.errors import InputError
from medkd.networks.options import BasicUNetOptions

CLASSES = 3
FEATURES = {"student": "upcat_1", "teacher": "upcat_1"}
LOSSES: dict[str, dict[str, Any]] = {
    "kd": {},
    "dkd": {},
    "dist": {},
    "pld": {},
    "bpkd": {},
    "cwd": FEATURES,
    "fitnets": FEATURES,
    "attention_transfer": FEATURES,
    "mgd": FEATURES,
    "reviewkd": {"student": ["down_4", "down_1"], "teacher": ["down_4", "down_1"]},
    "sp": {"student": "down_4", "teacher": "down_4"},
    "rkd": {"student": "down_4", "teacher": "down_4"},
}
PROJECTED = {"cwd", "fitnets", "mgd", "reviewkd"}


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
    image = torch.randn(3, channels, *[32] * dims, generator=generator("image"))
    label = torch.randint(CLASSES, (3, *[32] * dims), generator=generator("label"))
    return {"labelled": Batch(image, label, ("a", "b", "c"), Draws((0, 0, "labelled"), 3))}


def distil(losses: list[dict[str, Any]], dims: int = 2, **values: Any) -> Distil:
    options = DistilOptions(losses=losses, dry_size=32, **values)
    return Distil(unet(4, dims), unet(8, dims), options).train()


def features(network: nn.Module, image: Tensor) -> Tensor:
    with tapped(network, ["upcat_1"]) as found:
        network(image)
    return found["upcat_1"]


def context(step: int = 0, total: int = 12) -> StepContext:
    return StepContext(step, total, step, 0, Task())


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_teaches_a_student_of_another_width(kind: str, dims: int) -> None:
    method = distil([{"kind": kind, **LOSSES[kind]}], dims, label_weight=0.0)
    output = method.step("student", batch(dims), context(11))
    output.loss.backward()
    assert output.loss > 0
    assert all(torch.isfinite(p.grad).all() for p in method.trainable("student") if p.grad is not None)
    assert method.student.get_submodule("conv_0.conv_0.conv").weight.grad.abs().sum() > 0
    projectors = [p for p in method.losses.parameters() if p.requires_grad]
    assert bool(projectors) == (kind in PROJECTED)
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
        s, t = (features(n, x.image) for n in (method.student, method.teacher.network))
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


def test_the_list_of_losses_is_complete() -> None:
    """Those of images with one class and of detectors have tests of their own."""
    union, _ = get_args(LossUnion)
    kinds = {options.model_fields["kind"].default: options for options in get_args(union)}
    assert {kind for kind, options in kinds.items() if "segmentation" in options.tasks} == set(LOSSES)
    assert all(options.why for options in kinds.values() if len(options.tasks) < 3)


def test_tensors_that_a_loss_cannot_compare() -> None:
    message = (
        r"cwd compares the student's upcat_1 \(4 x 32 x 32\) with the teacher's down_1 \(8 x 16 x 16\), position by "
        "position; name modules whose maps have one size"
    )
    with pytest.raises(InputError, match=message):
        distil([{"kind": "cwd", "student": "upcat_1", "teacher": "down_1"}])


def test_a_loss_of_another_task_is_refused() -> None:
    phase = {"name": "student", "steps": 1, "method": {"kind": "distil"}}
    for kind, why in (("crd", "an image must have one class"), ("bernoulli_kd", "use kd")):
        phase["method"] = {"kind": "distil", "losses": [{"kind": kind, **FEATURES}]}
        with pytest.raises(InputError, match=rf"losses has {kind}, which does not serve segmentation: .*{why}"):
            parse_recipe({"teacher": "somewhere", "phases": [phase]})


def test_maps_are_needed_by_losses_over_space() -> None:
    def network(width: int) -> nn.Sequential:
        layers = [nn.Conv2d(1, width, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, CLASSES)]
        return nn.Sequential(*layers)

    for loss in ({"kind": "mgd"}, {"kind": "attention_transfer"}, {"kind": "cwd"}, {"kind": "reviewkd"}):
        with pytest.raises(InputError, match=r"needs maps over space; name modules before the pooling"):
            Distil(network(4), network(8), DistilOptions(losses=[loss | {"student": "3", "teacher": "3"}]))
    Distil(network(4), network(8), DistilOptions(losses=[{"kind": "fitnets", "student": "3", "teacher": "3"}]))


def test_outputs_that_would_be_misread_are_refused() -> None:
    """A normalisation before an in-place activation, and a module that the forward leaves out."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.Sequential(nn.Conv2d(1, CLASSES, 1), nn.BatchNorm2d(CLASSES))
            self.act, self.unused = nn.ReLU(inplace=True), nn.Conv2d(1, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.norm(x))

    for path, message in (("norm", "output of norm of Network is changed in place"), ("unused", "takes no part in")):
        with pytest.raises(InputError, match=message):
            Distil(Network(), unet(8), DistilOptions(losses=[{"kind": "sp", "student": path, "teacher": "down_1"}]))


def test_a_map_before_its_activation() -> None:
    """`PATH:input`, for ReviewKD: of a block that adds and activates in place, what it adds up, before and after the
    activation has overwritten it."""

    class Network(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()
            torch.manual_seed(width)
            self.first, self.second = nn.Conv2d(1, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
            self.relu, self.head = nn.ReLU(inplace=True), nn.Conv2d(width, CLASSES, 1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.relu(self.first(x))
            y = self.second(x)
            y += x
            return self.head(self.relu(y))  # the module's last forward counts

    before = {"student": "relu:input", "teacher": "relu:input"}
    options = DistilOptions(losses=[{"kind": "fitnets", "weight": 1.0, **before}], label_weight=0.0, dry_size=32)
    method = Distil(Network(4), Network(6), options).train()
    x = batch()["labelled"]
    loss = method.step("student", {"labelled": x}, context()).loss

    def added(network: Any) -> Tensor:
        first = network.first(x.image).relu()
        return network.second(first) + first

    s, t = added(method.student), added(method.teacher.network)
    assert (t < 0).any()  # not yet activated
    torch.testing.assert_close(loss, (method.losses[0].regressor(s) - t).square().mean())
    loss.backward()
    assert method.student.second.weight.grad.abs().sum() > 0
    with pytest.raises(InputError, match="the student, Network, has no module 'rel'; it has relu"):
        Distil(Network(4), Network(6), DistilOptions(losses=[{"kind": "sp", **before, "student": "rel:input"}]))


def test_standardised_logits_of_two_classes_are_refused_before_training() -> None:
    with pytest.raises(InputError, match="standardised logits of 2 classes carry no confidence"):
        Distil(
            unet(4, classes=2), unet(8, classes=2),
            DistilOptions(losses=[{"kind": "kd", "standardise": True}], dry_size=32),
        )  # fmt: skip


def test_an_image_that_a_network_cannot_take_is_said() -> None:
    fixed = nn.Sequential(nn.Conv2d(1, 2, 1), nn.Flatten(), nn.Linear(2 * 28 * 28, CLASSES))
    with pytest.raises(InputError, match=r"the student, Sequential, cannot take an image of 64 x 64 .*; set dry_size"):
        Distil(fixed, unet(8), DistilOptions())


def test_labels_count_once() -> None:
    """PLD contains the cross-entropy: whether the task's loss is added to it must be said."""
    with pytest.raises(ValidationError, match="pld contains the cross-entropy on the labels; say label_weight"):
        DistilOptions(losses=[{"kind": "pld"}])
    method = distil([{"kind": "pld"}], label_weight=0.0)
    x = batch()["labelled"]
    with torch.no_grad():
        loss = method.step("student", {"labelled": x}, context()).loss
        expected = pld_loss(method.student(x.image), method.teacher(x.image), x.labels)
    torch.testing.assert_close(loss, expected)


def test_relations_are_between_pooled_features() -> None:
    method = distil([{"kind": "rkd", **LOSSES["rkd"]}], label_weight=0.0)
    x = batch()["labelled"]
    with torch.no_grad():
        loss = method.step("student", {"labelled": x}, context()).loss
        means = []
        for network in (method.student, method.teacher.network):
            with tapped(network, ["down_4"]) as found:
                network(x.image)
            means.append(found["down_4"].mean((2, 3)))
    torch.testing.assert_close(loss, rkd_loss(*means))


def test_stages_come_in_pairs() -> None:
    with pytest.raises(ValidationError, match="2 paths of the student and 1 of the teacher"):
        DistilOptions(losses=[{"kind": "reviewkd", "student": ["down_4", "down_1"], "teacher": "down_4"}])
    two = {"student": ["upcat_1", "down_1"], "teacher": ["upcat_1", "down_1"]}
    both = distil([{"kind": "attention_transfer", **two}], label_weight=0.0)
    with torch.no_grad():
        parts = [
            distil([{"kind": "attention_transfer", "student": p, "teacher": p}], label_weight=0.0)
            .step("student", batch(), context()).loss
            for p in two["student"]
        ]  # fmt: skip
        torch.testing.assert_close(both.step("student", batch(), context()).loss, sum(parts))


def test_a_list_without_a_loss_is_refused() -> None:
    with pytest.raises(ValidationError, match="at least 1 item"):
        DistilOptions(losses=[])
