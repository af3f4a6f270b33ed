"""A module hands every option it stores to its function; options and their weights are the published ones."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from loss_cases import labels_for, pair
from torch import Tensor

from medkd.distill.loss_options import BpkdOptions, LossUnion
from medkd.distill.losses.attention_transfer import AttentionTransferLoss, attention_transfer_loss
from medkd.distill.losses.bpkd import BPKDLoss, bpkd_terms
from medkd.distill.losses.concordance import ConcordanceLoss, concordance_loss
from medkd.distill.losses.crd import CRDLoss
from medkd.distill.losses.cwd import CWDLoss, cwd_loss
from medkd.distill.losses.dist import DISTLoss, dist_loss
from medkd.distill.losses.dkd import DKDLoss, dkd_loss
from medkd.distill.losses.embedding_alignment import EmbeddingAlignmentLoss, embedding_alignment_loss
from medkd.distill.losses.hinton import BernoulliKDLoss, HintonKDLoss, bernoulli_kd_loss, hinton_kd_loss
from medkd.distill.losses.margin_mse import MarginMSELoss, margin_mse_loss
from medkd.distill.losses.mgd import MGDLoss
from medkd.distill.losses.ofa import OFALoss, ofa_loss
from medkd.distill.losses.pld import PLDLoss, pld_loss
from medkd.distill.losses.rkd import RKDLoss, rkd_loss
from medkd.distill.losses.simkd import SimKDLoss
from medkd.distill.methods.compared import Compared
from medkd.distill.ofa_options import OfaOptions
from medkd.errors import InputError

S, T = pair(2, torch.float64)
Y = labels_for(S)
V = Y != 0
FLAT_S, FLAT_T = pair(0, torch.float64)
ONE, OTHER = (FLAT_S[:, 0], FLAT_S[:, 1]), (FLAT_T[:, 0], FLAT_T[:, 1])


def bpkd(s: Tensor, t: Tensor, y: Tensor) -> Tensor:
    edge, body = bpkd_terms(s, t, y, (3, 5), "stable", 0.5, 3.0, 0)
    return 2 * body + 5 * edge


OPTIONS: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
    "hinton": (lambda: HintonKDLoss(3.0, True)(S, T, V), lambda: hinton_kd_loss(S, T, 3.0, V, True)),
    "bernoulli": (lambda: BernoulliKDLoss(3.0)(S, T, S > 0), lambda: bernoulli_kd_loss(S, T, 3.0, S > 0)),
    "dkd": (lambda: DKDLoss(3, 0.5, 2.0, 3.0, 0)(S, T, Y), lambda: dkd_loss(S, T, Y, 0.5, 2.0, 3.0, 0)),
    "dist": (lambda: DISTLoss(3, 0.5, 2.0, 3.0)(S, T, V), lambda: dist_loss(S, T, 0.5, 2.0, 3.0, V)),
    "ofa": (
        lambda: OFALoss(1.5, 3.0, "paper", 0.5, ignore_index=0)(S, T, Y),
        lambda: 0.5 * ofa_loss(S, T, Y, 1.5, 3.0, "paper", 0),
    ),
    "pld": (lambda: PLDLoss(3, 3.0, 0)(S, T, Y), lambda: pld_loss(S, T, Y, 3.0, 0)),
    "cwd": (lambda: CWDLoss(3.0)(S, T), lambda: cwd_loss(S, T, 3.0)),
    "bpkd": (lambda: BPKDLoss(3, 2, (3, 5), "stable", 2, 5, 0.5, 3.0, 0)(S, T, Y), lambda: bpkd(S, T, Y)),
    "attention": (
        lambda: AttentionTransferLoss(3.0, "paper")([S], [T]),
        lambda: attention_transfer_loss(S, T, 3.0, "paper"),
    ),
    "rkd": (lambda: RKDLoss(2.0, 3.0)(FLAT_S, FLAT_T), lambda: rkd_loss(FLAT_S, FLAT_T, 2.0, 3.0)),
    "margin": (lambda: MarginMSELoss(3.0)(*ONE, *OTHER), lambda: margin_mse_loss(*ONE, *OTHER, 3.0)),
    "embedding": (
        lambda: EmbeddingAlignmentLoss("distance", True)(FLAT_S, FLAT_T),
        lambda: embedding_alignment_loss(FLAT_S, FLAT_T, "distance", True),
    ),
    "concordance": (
        lambda: ConcordanceLoss("sum", 0.5)(FLAT_S, FLAT_T),
        lambda: concordance_loss(FLAT_S, FLAT_T, "sum", 0.5),
    ),
}


def test_a_recipe_says_the_width_of_a_border_for_each_axis() -> None:
    """Slices 10 mm apart: seven of them are no border."""
    shape = torch.Size((1, 3, 8, 8, 4))
    for kernel, sides in ((5, (5, 5, 5)), ([7, 7, 1], (7, 7, 1))):
        loss = BpkdOptions(kernel=kernel).build(Compared((shape,), (shape,), 3))
        assert (loss.kernel, loss.normalisation) == (sides, "stable")
    with pytest.raises(
        InputError, match=r"kernel is \(7, 7\); it must be one odd number of voxels, or one for each of 3"
    ):
        BpkdOptions(kernel=[7, 7]).build(Compared((shape,), (shape,), 3))


@pytest.mark.parametrize("name", OPTIONS)
def test_a_module_is_its_function_with_its_options(name: str) -> None:
    module, function = OPTIONS[name]
    assert module().item() == function().item()


PUBLISHED: dict[Callable[..., Any], dict[str, Any]] = {
    HintonKDLoss: {"temperature": 4.0, "standardise": False},
    BernoulliKDLoss: {"temperature": 1.0},
    DKDLoss: {"alpha": 1.0, "beta": 8.0, "temperature": 4.0},
    DISTLoss: {"beta": 1.0, "gamma": 1.0, "temperature": 1.0},
    OFALoss: {"gamma": 1.0, "temperature": 1.0, "form": "code", "final_weight": 1.0, "exit_weight": 1.0},
    PLDLoss: {"teacher_temperature": 1.0},
    AttentionTransferLoss: {"power": 2.0, "mode": "code"},
    RKDLoss: {"distance_weight": 25.0, "angle_weight": 50.0},
    CRDLoss: {"dim": 128, "negatives": 16384, "temperature": 0.07, "momentum": 0.5},
    CWDLoss: {"temperature": 1.0, "channels": None},
    MGDLoss: {"ratio": 0.65, "mask": "spatial"},
    SimKDLoss: {"reduction": 2},
}
"""Of classic_kd.md (mdistiller's configurations for CIFAR-100, MMRazor's for DIST and the dense losses), ofa_kd.md and
pld.md."""
WEIGHTS = {"fitnets": 100.0, "attention_transfer": 1000.0, "sp": 3000.0, "crd": 0.8, "cwd": 5.0}
RAMPS = {"dkd": 20 / 240, "reviewkd": 20 / 240}


def defaults(made: Callable[..., Any]) -> dict[str, Any]:
    given = inspect.signature(made).parameters.items()
    return {name: p.default for name, p in given if p.default is not inspect.Parameter.empty}


@pytest.mark.parametrize("module", PUBLISHED, ids=lambda module: module.__name__)
def test_defaults_are_the_published_ones(module: Callable[..., Any]) -> None:
    found = defaults(module)
    assert {name: found[name] for name in PUBLISHED[module]} == PUBLISHED[module]


@pytest.mark.parametrize("function", [hinton_kd_loss, dkd_loss, dist_loss, ofa_loss, pld_loss, rkd_loss, cwd_loss])
def test_a_function_has_the_defaults_of_its_module(function: Callable[..., Any]) -> None:
    (module,) = (m for m in PUBLISHED if m.__module__ == function.__module__ and m is not BernoulliKDLoss)
    ours, modules = defaults(function), defaults(module)
    shared = ours.keys() & modules.keys()
    assert shared
    assert {name: ours[name] for name in shared} == {name: modules[name] for name in shared}


def test_options_have_the_defaults_of_their_loss() -> None:
    """And the weights and ramps are the published ones; 1 and none where none are."""
    union, _ = get_args(LossUnion)
    fields = {options.model_fields["kind"].default: options.model_fields for options in get_args(union)}
    names = {
        "kd": HintonKDLoss, "bernoulli_kd": BernoulliKDLoss, "dkd": DKDLoss, "dist": DISTLoss, "pld": PLDLoss,
        "cwd": CWDLoss, "attention_transfer": AttentionTransferLoss, "mgd": MGDLoss, "rkd": RKDLoss, "crd": CRDLoss,
    }  # fmt: skip
    for kind, module in names.items():
        shared = PUBLISHED[module].keys() & fields[kind].keys()
        assert {name: fields[kind][name].default for name in shared} == {
            name: PUBLISHED[module][name] for name in shared
        }
    assert {kind: field["weight"].default for kind, field in fields.items() if field["weight"].default != 1} == WEIGHTS
    assert {kind: field["ramp"].default for kind, field in fields.items() if field["ramp"].default} == RAMPS
    ofa = OfaOptions()
    assert (ofa.gamma, ofa.temperature, ofa.form, ofa.kd_weight, ofa.exit_weight) == (1, 1, "code", 1, 1)
