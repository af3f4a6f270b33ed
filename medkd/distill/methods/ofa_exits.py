"""OFA-KD's exits: throw-away branches from a student's features to logits, where architecture plays no part.

    maps (B, C, *S)     strided separable convolutions, one block fewer for each deeper stage, pooling, a linear map
    tokens (B, N, E)    2 x 2 patch merging down to 7 x 7, transformer blocks, the class token or the mean, a linear map
    dense               a 1 x 1 convolution and interpolation to the logits' grid (an extension: the paper classifies)

Exits are trained with the student and never ship. Source: Hao et al., NeurIPS 2023, arXiv 2310.19444.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import isqrt

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.projectors import BATCH_NORM, CONVOLUTION, convolution
from medkd.distill.methods.forward import dry, main_logits, tried
from medkd.errors import InputError

GRID = 7  # tokens a side at most, after merging
HEADS = 4
INTERPOLATION = {1: "linear", 2: "bilinear", 3: "trilinear"}


def dry_shapes(network: nn.Module, paths: Sequence[str], image: Tensor) -> tuple[dict[str, torch.Size], torch.Size]:
    """The shapes of each tapped tensor and of the logits for an image (B, C, *S), from one forward without a trace."""
    with dry(network), tried(network, paths) as found:
        logits = main_logits(network(image), image)
    return {path: found[path].shape for path in paths}, logits.shape


class OfaExits(nn.Module):
    """shapes: of the tapped tensors by path, shallow to deep (`dry_shapes`). width: D, the features of the last layer
    of an exit; max(student, teacher) in the paper. dense: logits a voxel.

    Raises InputError for no stage, for tensors that are neither maps nor tokens, and for a width that the heads of
    the transformer blocks do not divide.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]], classes: int, width: int = 64, dense: bool = False):
        super().__init__()
        if not shapes:
            raise InputError("exits need at least one stage: name the modules of the student to tap")
        self.paths, self.dense = tuple(shapes), dense
        after = [len(shapes) - 1 - i for i in range(len(shapes))]
        self.exits = nn.ModuleList(
            _exit(path, tuple(shape), classes, width, blocks, dense)
            for (path, shape), blocks in zip(shapes.items(), after)
        )
        initialise(self)

    def forward(self, features: Mapping[str, Tensor], size: Sequence[int] = ()) -> list[Tensor]:
        """Logits (B, K) of each stage, or (B, K, *size) of dense exits."""
        logits = [branch(features[path]) for path, branch in zip(self.paths, self.exits)]
        if not self.dense:
            return logits
        mode = INTERPOLATION[len(size)]
        return [F.interpolate(z, tuple(size), mode=mode, align_corners=False) for z in logits]


def _exit(path: str, shape: tuple[int, ...], classes: int, width: int, blocks: int, dense: bool) -> nn.Module:
    dims = len(shape) - 2
    if dense and dims in CONVOLUTION:
        return convolution(dims, shape[1], classes)
    if dims == 1 and not dense:
        return TokenExit(shape[1], shape[2], classes, width, blocks)
    if dims in (2, 3) and not dense:
        return map_exit(dims, shape[1], classes, width, blocks)
    wanted = "maps (B, C, *S)" if dense else "maps (B, C, H, W) or (B, C, D, H, W), or tokens (B, N, E)"
    raise InputError(f"{path} gives a tensor of shape {shape}; exits are made for {wanted}")


def map_exit(dims: int, channels: int, classes: int, width: int, blocks: int) -> nn.Sequential:
    """`blocks` separable blocks that halve the size and double the channels; without any, a 1 x 1 convolution."""
    layers: list[nn.Module] = []
    for left in range(blocks, 0, -1):
        out = width if left == 1 else 2 * channels
        layers.append(separable(dims, channels, out))
        channels = out
    if not blocks:
        layers.append(convolution(dims, channels, width))
    pool = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}[dims](1)
    return nn.Sequential(*layers, pool, nn.Flatten(), nn.Linear(width, classes))


def separable(dims: int, channels: int, out: int) -> nn.Sequential:
    """Depthwise 3 with stride 2, pointwise, norm, ReLU, then the same without stride."""
    conv, norm = CONVOLUTION[dims], BATCH_NORM[dims]

    def half(width: int, stride: int) -> list[nn.Module]:
        depthwise = conv(channels, channels, 3, stride, padding=1, groups=channels, bias=False)
        return [depthwise, conv(channels, width, 1, bias=False), norm(width), nn.ReLU()]

    return nn.Sequential(*half(channels, 2), *half(out, 1))


class TokenExit(nn.Module):
    """Tokens (B, N, E), a square grid with or without a class token before it, to logits (B, K).

    Tokens that form no square, as those of a volume, are not merged.
    """

    def __init__(self, tokens: int, channels: int, classes: int, width: int, blocks: int):
        super().__init__()
        if width % HEADS:
            raise InputError(f"width is {width}; for tokens it must be a multiple of the {HEADS} heads")
        self.class_token = isqrt(tokens) ** 2 != tokens and isqrt(tokens - 1) ** 2 == tokens - 1
        side, merges = isqrt(tokens), []
        square = side**2 == tokens - self.class_token
        inputs = channels
        while square and side > GRID and side % 2 == 0:
            merges.append(PatchMerging(inputs, width))
            side, inputs = side // 2, width
        self.merges = nn.ModuleList(merges)
        self.project = nn.Identity() if merges else nn.Linear(channels, width)
        self.project_class = nn.Linear(channels, width) if self.class_token else None
        layer = [
            nn.TransformerEncoderLayer(width, HEADS, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(max(blocks, 1))
        ]
        self.blocks, self.norm = nn.Sequential(*layer), nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        first, x = (tokens[:, :1], tokens[:, 1:]) if self.class_token else (None, tokens)
        for merge in self.merges:
            x = merge(x)
        x = self.project(x)
        if first is not None and self.project_class is not None:
            x = torch.cat([self.project_class(first), x], 1)
        x = self.norm(self.blocks(x))
        logits: Tensor = self.head(x[:, 0] if self.class_token else x.mean(1))
        return logits


class PatchMerging(nn.Module):
    """Tokens of a square grid (B, S * S, E) to (B, S * S / 4, width): 2 x 2 neighbours side by side, norm, linear."""

    def __init__(self, channels: int, width: int):
        super().__init__()
        self.layers = nn.Sequential(nn.LayerNorm(4 * channels), nn.Linear(4 * channels, width), nn.GELU())

    def forward(self, x: Tensor) -> Tensor:
        batch, count, channels = x.shape
        half = isqrt(count) // 2
        x = x.reshape(batch, half, 2, half, 2, channels).permute(0, 1, 3, 2, 4, 5)
        merged: Tensor = self.layers(x.reshape(batch, half * half, 4 * channels))
        return merged


def initialise(module: nn.Module) -> None:
    """Convolutions Kaiming (fan out), linear maps normal of sd 0.02 cut at two units, biases zero. The map to queries,
    keys and values is not an nn.Linear, and keeps PyTorch's Xavier."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.trunc_normal_(layer.weight, std=0.02)
        elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        if isinstance(layer, (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)) and layer.bias is not None:
            nn.init.zeros_(layer.bias)
