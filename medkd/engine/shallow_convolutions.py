"""A fault of torch's CPU backend, kept out of training: bfloat16 gradients of 3-D convolutions on shallow feature maps.

Where a feature map is smaller than the kernel along an axis (the lowest level of a 3-D U-Net on 32 slices has a depth
of 2), oneDNN's gradient of the weights in bfloat16 contains memory that nothing has written: numbers of 1e30, NaN, or,
worse, plausible ones; with kernels of 7 it may end the process. Seen with torch 2.14 on a CPU with AVX512_BF16. Such
maps are small, so these convolutions are computed in float32 at next to no cost.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn


class ShallowConv3d(nn.Conv3d):
    """An nn.Conv3d that leaves bfloat16 on a CPU where the feature map is smaller than its kernel along an axis."""

    def forward(self, x: Tensor) -> Tensor:
        shallow = any(size < kernel for size, kernel in zip(x.shape[2:], self.kernel_size))
        if not (shallow and torch.is_autocast_enabled("cpu")):
            return super().forward(x)
        with torch.autocast("cpu", enabled=False):
            return super().forward(x.float()).bfloat16()


def guard_shallow_convolutions(module: nn.Module) -> None:
    """Make every nn.Conv3d in `module` a ShallowConv3d, in place; parameters, hooks and names stay."""
    for part in module.modules():
        if type(part) is nn.Conv3d:
            part.__class__ = ShallowConv3d
