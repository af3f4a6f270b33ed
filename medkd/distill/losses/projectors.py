"""Trainable parts between a student's features and its teacher's, in any number of spatial dimensions.

Projectors are networks: they run in the precision of their weights, or of the autocast around them. What they return
is compared at full precision, as everything else is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.shared import full_precision
from medkd.engine.tensors import need
from medkd.errors import InputError

CONVOLUTION = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
BATCH_NORM = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
POOL: dict[int, Callable[..., Tensor]] = {1: F.adaptive_avg_pool1d, 2: F.adaptive_avg_pool2d, 3: F.adaptive_avg_pool3d}


def convolution(dims: int, inputs: int, outputs: int, kernel: int = 1, bias: bool = True) -> nn.Module:
    """A convolution that keeps the size. Raises InputError unless dims is 1, 2 or 3."""
    if dims not in CONVOLUTION:
        raise InputError(f"spatial_dims is {dims}; it must be 1, 2 or 3")
    return CONVOLUTION[dims](inputs, outputs, kernel, padding=kernel // 2, bias=bias)


def pointwise(dims: int, inputs: int, outputs: int) -> nn.Module:
    """A linear map of the channels of (B, C) (dims 0) or of (B, C, *S)."""
    return nn.Linear(inputs, outputs) if dims == 0 else convolution(dims, inputs, outputs)


def normalised_convolution(dims: int, inputs: int, outputs: int, kernel: int = 1, relu: bool = True) -> nn.Sequential:
    """Convolution, batch normalisation and, if asked for, ReLU."""
    layers = [convolution(dims, inputs, outputs, kernel, bias=False), BATCH_NORM[dims](outputs)]
    return nn.Sequential(*layers, *([nn.ReLU()] if relu else []))


def applied(layers: nn.Module, x: Tensor) -> Tensor:
    """layers(x), with x in the precision of their weights."""
    weight = next(layers.parameters(), None)
    output: Tensor = layers(x if weight is None else x.to(weight.dtype))
    return output


def pooled(x: Tensor, size: Sequence[int]) -> Tensor:
    """Adaptive average pooling of (B, C, *S) to `size`; x itself where it has that size."""
    return x if tuple(x.shape[2:]) == tuple(size) else POOL[len(size)](x, tuple(size))


def to_common_size(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both (B, C, *S) at full precision, the teacher detached, the larger map average-pooled to the smaller.

    Raises ValueError for different batches or numbers of axes.
    """
    if student.ndim != teacher.ndim:
        raise ValueError(f"teacher has shape {tuple(teacher.shape)}, student {tuple(student.shape)}: other axes")
    need("teacher", teacher, [(student.shape[0], *teacher.shape[1:])])
    size = [min(sides) for sides in zip(student.shape[2:], teacher.shape[2:])]
    student, teacher = full_precision(student, teacher)
    return pooled(student, size), pooled(teacher, size)
