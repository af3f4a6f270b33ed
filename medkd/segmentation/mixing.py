"""Copy-paste: the masks that say where a guest patch is pasted, and the paste itself (card bcp.md 3.1, 3.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from medkd.errors import InputError


@dataclass(frozen=True)
class PasteMask:
    """Draws the region a patch is pasted into. One mask an iteration, shared by the batch and by both directions.

    box: one box of side floor(beta * n). grid: one box of side floor(beta * n / 3) at random in every cell of a 3 x 3
    (x 3) grid. slab: one full-width slab along the first axis (2-D) or the last (3-D), of about the box's share.
    inclusive_end: whether the last legal start can be drawn; the published code leaves it out.
    beta 0 pastes nothing.
    """

    beta: float = 2 / 3
    kind: Literal["box", "grid", "slab"] = "box"
    inclusive_end: bool = True

    def __call__(self, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """A bool tensor of `shape` on the CPU: True where the host survives, False where the patch is pasted."""
        host = torch.ones(shape, dtype=torch.bool)
        match self.kind:
            case "box":
                self._cut(host, [(0, n) for n in shape], [self.side(n) for n in shape], generator)
            case "grid":
                for cell in torch.cartesian_prod(*[torch.arange(3)] * len(shape)).tolist():
                    bounds = [(i * n // 3, (i + 1) * n // 3) for i, n in zip(cell, shape)]
                    self._cut(host, bounds, [int(n * self.beta / 3 + 1e-6) for n in shape], generator)
            case "slab":
                axis = 0 if len(shape) == 2 else len(shape) - 1
                sides = list(shape)
                sides[axis] = int(shape[axis] * self.beta ** len(shape) + 1e-6)
                self._cut(host, [(0, n) for n in shape], sides, generator)
        return host

    def side(self, n: int) -> int:
        """floor(beta * n), exact for beta = 2/3 (170 of 256, 74 of 112)."""
        return int(n * self.beta + 1e-6)

    def _cut(self, host: Tensor, bounds: list[tuple[int, int]], sides: list[int], g: torch.Generator) -> None:
        box = []
        for (low, high), side in zip(bounds, sides):
            starts = high - low - side + (1 if self.inclusive_end or side == high - low else 0)
            start = low + int(torch.randint(max(starts, 1), (), generator=g))
            box.append(slice(start, start + side))
        host[tuple(box)] = False


def halves(batch: Tensor) -> tuple[Tensor, Tensor]:
    """The even and the odd samples (B, ...) of a batch: micro-batches of even size keep every pair together.

    Raises InputError for an odd number: one half would be short, or empty and train on nothing.
    """
    if len(batch) % 2:
        raise InputError(f"a batch holds {len(batch)} samples, which this method pairs; give the stream an even size")
    return batch[0::2], batch[1::2]


def paste(host: Tensor, guest: Tensor, mask: Tensor) -> Tensor:
    """`host` where `mask` is True, `guest` elsewhere; images (B, C, *S) and labels (B, *S) alike, dtype kept."""
    return torch.where(mask, host, guest)
