"""What losses of every room ask of a tensor: its precision and its shape."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def at_least_float32(x: Tensor) -> Tensor:
    """Float16 and bfloat16 to float32; float32 and float64 as they are."""
    return x if x.dtype == torch.float64 else x.float()


def need(name: str, x: Tensor, shapes: Sequence[Sequence[int]]) -> None:
    """Raise ValueError unless x has one of the shapes: broadcasting would hide the mistake."""
    allowed = [tuple(shape) for shape in shapes]
    if tuple(x.shape) not in allowed:
        raise ValueError(f"{name} has shape {tuple(x.shape)}; needed: {' or '.join(map(str, allowed))}")
