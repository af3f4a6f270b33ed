"""Every random number of a run is a pure function of (seed, step, name, index of the sample in the global batch).

Nothing is drawn from a stream that must be saved, so a resumed run and a run on more devices draw the same numbers.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor


def key(*parts: object) -> int:
    """A 63-bit integer that depends on every part, the same on every machine."""
    digest = hashlib.blake2b("|".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(*parts: object, device: torch.device | str = "cpu") -> torch.Generator:
    """A torch generator seeded by `key(*parts)`."""
    return torch.Generator(device).manual_seed(key(*parts))


@dataclass(frozen=True)
class Draws:
    """The random numbers of one batch: samples `start` to `start + size` of a global batch of `total` samples.

    A micro-batch or a rank sees the numbers its samples would have had in the whole batch.
    """

    scope: tuple[object, ...]  # (seed, step, stream)
    size: int
    start: int = 0
    total: int | None = None

    def generator(self, name: str) -> torch.Generator:
        """A CPU generator for numbers the whole batch shares (one mask per iteration)."""
        return generator(*self.scope, name)

    def uniform(self, name: str, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """(size, *shape) float32 on the CPU, uniform in [low, high)."""
        total = self.total or self.start + self.size
        values = torch.rand(total, *shape, generator=self.generator(name))[self.start : self.start + self.size]
        return low + (high - low) * values

    def integers(self, name: str, high: int, *shape: int) -> Tensor:
        """(size, *shape) int64 on the CPU, uniform in 0 .. high - 1."""
        total = self.total or self.start + self.size
        return torch.randint(high, (total, *shape), generator=self.generator(name))[self.start : self.start + self.size]

    def normal(self, name: str, like: Tensor) -> Tensor:
        """Standard normal noise of the shape, device and dtype of `like` (size, ...), one generator a sample."""
        noise = torch.empty_like(like)
        for row in range(self.size):
            g = generator(*self.scope, name, self.start + row, device=like.device)
            noise[row].normal_(generator=g)
        return noise


@contextmanager
def seeded(*parts: object) -> Iterator[None]:
    """The global generators (dropout has no other) hold `key(*parts)` inside, and their former state afterwards."""
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(key(*parts))
        yield
