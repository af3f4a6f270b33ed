"""A module hands every option it stores to its function."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from loss_cases import labels_for, pair
from torch import Tensor

from medkd.distill.loss_options import BpkdOptions
from medkd.distill.losses.attention_transfer import AttentionTransferLoss, attention_transfer_loss
from medkd.distill.losses.bpkd import BPKDLoss, bpkd_terms
from medkd.distill.losses.concordance import ConcordanceLoss, concordance_loss
from medkd.distill.losses.cwd import CWDLoss, cwd_loss
from medkd.distill.losses.dist import DISTLoss, dist_loss
from medkd.distill.losses.dkd import DKDLoss, dkd_loss
from medkd.distill.losses.embedding_alignment import EmbeddingAlignmentLoss, embedding_alignment_loss
from medkd.distill.losses.hinton import BernoulliKDLoss, HintonKDLoss, bernoulli_kd_loss, hinton_kd_loss
from medkd.distill.losses.margin_mse import MarginMSELoss, margin_mse_loss
from medkd.distill.losses.ofa import OFALoss, ofa_loss
from medkd.distill.losses.pld import PLDLoss, pld_loss
from medkd.distill.losses.rkd import RKDLoss, rkd_loss
from medkd.distill.methods.compared import Compared
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
