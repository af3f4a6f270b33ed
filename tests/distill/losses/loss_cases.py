"""Every distillation loss with inputs of its kind, for the tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from hypothesis import settings
from torch import Tensor, nn

from medkd.distill.losses.attention_transfer import AttentionTransferLoss
from medkd.distill.losses.bpkd import BPKDLoss
from medkd.distill.losses.concordance import ConcordanceLoss
from medkd.distill.losses.crd import CRDLoss
from medkd.distill.losses.cwd import CWDLoss
from medkd.distill.losses.dist import DISTLoss
from medkd.distill.losses.dkd import DKDLoss
from medkd.distill.losses.embedding_alignment import EmbeddingAlignmentLoss
from medkd.distill.losses.fitnets import FitNetLoss
from medkd.distill.losses.hinton import BernoulliKDLoss, HintonKDLoss
from medkd.distill.losses.margin_mse import MarginMSELoss
from medkd.distill.losses.mgd import MGDLoss
from medkd.distill.losses.ofa import OFALoss
from medkd.distill.losses.pld import PLDLoss
from medkd.distill.losses.reviewkd import ReviewKDLoss
from medkd.distill.losses.rkd import RKDLoss
from medkd.distill.losses.similarity_preserving import SimilarityPreservingLoss
from medkd.distill.losses.simkd import MatchedFeatures, SimKDLoss
from medkd.engine.randomness import generator

FEW = settings(max_examples=8)
"""Invariants on random numbers: a handful of seeds shows them."""
BATCH, CLASSES, CHANNELS = 4, 3, 3
SIDES = (6, 5, 4)

Call = Callable[[nn.Module, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Case:
    """`build(dims)` makes the loss; `call(loss, student, teacher)` adds labels and the like; `dims` are allowed."""

    name: str
    build: Callable[[int], nn.Module]
    call: Call
    dims: tuple[int, ...] = (0, 2, 3)
    zero_for_equal: bool = True
    trainable: bool = False

    def __str__(self) -> str:
        return self.name


def plain(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    return loss(student, teacher)


def labelled(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    return loss(student, teacher, labels_for(student))


def labels_for(student: Tensor) -> Tensor:
    shape = (student.shape[0], *student.shape[2:])
    return torch.randint(CLASSES, shape, generator=generator(5, *shape)).to(student.device)


def layers(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    return loss([student, student[..., 1:]], [teacher, teacher[..., 1:]])


def stages(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    """Deepest first: a coarse map, then a fine one."""
    return loss([student[..., ::2], student], [teacher[..., ::2], teacher])


def masked(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    shape = (len(student), *loss.mask_shape(student))
    return loss(student, teacher, torch.rand(shape, generator=generator(6)))


def banked(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    index = torch.arange(len(student), device=student.device)
    return loss(student, teacher, index, loss.negatives(index, torch.rand(len(student), 10, generator=generator(7))))


def scores(loss: nn.Module, student: Tensor, teacher: Tensor) -> Tensor:
    return loss(student[:, 0], student[:, 1:], teacher[:, 0], teacher[:, 1:])


CASES = [
    Case("hinton", lambda _: HintonKDLoss(), plain),
    Case("hinton_standardised", lambda _: HintonKDLoss(standardise=True), plain),
    Case("bernoulli", lambda _: BernoulliKDLoss(), plain),
    Case("dkd", lambda _: DKDLoss(CLASSES), labelled),
    Case("dist", lambda _: DISTLoss(CLASSES), plain),
    Case("ofa", lambda _: OFALoss(1.5), labelled, zero_for_equal=False),
    Case("pld", lambda _: PLDLoss(CLASSES), labelled, zero_for_equal=False),
    Case("bpkd_paper", lambda d: BPKDLoss(CLASSES, d, 3, "paper"), labelled, (2, 3)),
    Case("bpkd_stable", lambda d: BPKDLoss(CLASSES, d, 3, "stable"), labelled, (2, 3)),
    Case("cwd", lambda _: CWDLoss(), plain, (2, 3)),
    Case("attention_transfer", lambda _: AttentionTransferLoss(), layers, (2, 3)),
    Case("attention_transfer_paper", lambda _: AttentionTransferLoss(mode="paper"), layers, (2, 3)),
    Case("similarity_preserving", lambda _: SimilarityPreservingLoss(), plain),
    Case("rkd", lambda _: RKDLoss(), plain, (0,)),
    Case("margin_mse", lambda _: MarginMSELoss(), scores, (0,)),
    Case("embedding_squared", lambda _: EmbeddingAlignmentLoss(), plain, (0,)),
    Case("embedding_distance", lambda _: EmbeddingAlignmentLoss("distance", normalise=True), plain, (0,)),
    Case("embedding_cosine", lambda _: EmbeddingAlignmentLoss("cosine"), plain, (0,)),
    Case("concordance", lambda _: ConcordanceLoss(), plain, (0,)),
    Case("fitnets", lambda d: FitNetLoss(3, 3, d), plain, zero_for_equal=False, trainable=True),
    Case("cwd_projected", lambda d: CWDLoss(1.0, (3, 3), d), plain, (2, 3), zero_for_equal=False, trainable=True),
    Case("mgd", lambda d: MGDLoss(3, 3, d), masked, (2, 3), zero_for_equal=False, trainable=True),
    Case("mgd_channel", lambda d: MGDLoss(3, 3, d, 0.3, "channel"), masked, (2, 3), False, True),
    Case("reviewkd", lambda d: ReviewKDLoss([3, 3], [3, 3], d), stages, (2, 3), False, True),
    Case("simkd", lambda d: SimKDLoss(3, 3, d, reduction=1), plain, (2, 3), False, True),
    Case("simkd_matched", lambda _: MatchedFeatures(), plain, (2, 3)),
    Case("crd", lambda _: CRDLoss(3, 3, torch.arange(10) % 3, dim=8, temperature=0.5), banked, (0,), False, True),
]


def pair(dims: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Student and teacher (4, 3, *S)."""
    shape = (BATCH, CHANNELS, *SIDES[:dims])
    one, other = torch.randn(2, *shape, generator=generator(seed, *shape), dtype=torch.float64)
    return (2 * one).to(dtype), (2 * other).to(dtype)


def build(case: Case, dims: int, dtype: torch.dtype = torch.float32) -> nn.Module:
    """The loss with the same trainable weights every time."""
    torch.manual_seed(0)
    return case.build(dims).to(torch.float64 if dtype == torch.float64 else torch.float32)
