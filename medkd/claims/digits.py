"""The digits of scikit-learn (1797 images of 8 x 8, in the package) and a plain training loop, for small claims."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache

import torch
from torch import Tensor, nn

from medkd.engine.randomness import generator


@cache
def _loaded() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)


def split(seed: int, *sizes: int) -> list[tuple[Tensor, Tensor]]:
    """Disjoint random parts of the given sizes: images (N, 1, 8, 8) in [0, 1] and labels (N)."""
    images, labels = _loaded()
    order = torch.randperm(len(images), generator=generator("digits", seed))
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return [(images[rows], labels[rows]) for rows in (order[s : s + n] for s, n in zip(starts, sizes))]


def train(
    parameters: Iterable[nn.Parameter],
    count: int,
    loss: Callable[[Tensor, torch.Generator], Tensor],
    steps: int,
    seed: object,
    batch: int = 64,
    lr: float = 3e-3,
) -> None:
    """Adam with a rate that falls to zero; loss(rows, generator) is that of rows drawn from `count` samples."""
    optimizer = torch.optim.Adam(list(parameters), lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    g = generator("train", seed)
    for _ in range(steps):
        optimizer.zero_grad()
        loss(torch.randint(count, (batch,), generator=g), g).backward()
        optimizer.step()
        schedule.step()


def perturbed(images: Tensor, g: torch.Generator, noise: float) -> Tensor:
    """Images moved by -1, 0 or 1 pixel along each axis, with normal noise of sd `noise` added."""
    padded = nn.functional.pad(images, (1, 1, 1, 1))
    offset = torch.randint(3, (len(images), 2), generator=g)
    y = (offset[:, :1] + torch.arange(images.shape[2]))[:, None, :, None]
    x = (offset[:, 1:] + torch.arange(images.shape[3]))[:, None, None, :]
    moved = padded[torch.arange(len(images))[:, None, None, None], 0, y, x]
    return moved + noise * torch.randn(images.shape, generator=g)
