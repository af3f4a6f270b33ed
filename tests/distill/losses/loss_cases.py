"""Every distillation loss with inputs of its kind, for the tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medkd.distill.losses.dist import DISTLoss
from medkd.distill.losses.dkd import DKDLoss
from medkd.distill.losses.hinton import BernoulliKDLoss, HintonKDLoss
from medkd.distill.losses.ofa import OFALoss
from medkd.distill.losses.pld import PLDLoss
from medkd.engine.randomness import generator

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


CASES = [
    Case("hinton", lambda _: HintonKDLoss(), plain),
    Case("hinton_standardised", lambda _: HintonKDLoss(standardise=True), plain),
    Case("bernoulli", lambda _: BernoulliKDLoss(), plain),
    Case("dkd", lambda _: DKDLoss(CLASSES), labelled),
    Case("dist", lambda _: DISTLoss(CLASSES), plain),
    Case("ofa", lambda _: OFALoss(1.5), labelled, zero_for_equal=False),
    Case("pld", lambda _: PLDLoss(CLASSES), labelled, zero_for_equal=False),
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
