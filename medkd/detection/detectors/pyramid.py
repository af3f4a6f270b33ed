"""Backbones with a feature pyramid, built from torchvision and timm parts. No weights are ever downloaded.

Images come in [0, 1] and are normalised here. The names of the weights are torchvision's own (`body.*`, `fpn.*`), so
detectors trained with torchvision load.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import resnet
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.ops import Conv2dNormActivation, FeaturePyramidNetwork
from torchvision.ops.feature_pyramid_network import LastLevelMaxPool

from medkd.detection.detectors.options import BackboneOptions, ResNetOptions, TimmOptions, TinyOptions
from medkd.errors import InputError
from medkd.inference.model_folder import read_weights

BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class Pyramid(nn.Module):
    """A body that gives maps from fine to coarse, and the pyramid on them with one coarser level on top.

    forward: (B, C, H, W) -> the levels by name, `pool` last, each (B, out_channels, H / stride, W / stride).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, widths: list[int], options: BackboneOptions, channels: int):
        super().__init__()
        self.body, self.frozen = body, options.norm == "frozen"
        self.fpn = FeaturePyramidNetwork(widths, options.pyramid, LastLevelMaxPool())
        self.channels, self.out_channels, self.levels = channels, options.pyramid, len(widths) + 1
        for name, given in (("mean", options.mean), ("std", options.std)):
            values = torch.tensor(given if len(given) in (1, channels) else [sum(given) / len(given)])
            self.register_buffer(name, values.view(-1, 1, 1), persistent=False)
        if self.frozen:
            for norm in batch_norms(body):
                norm.requires_grad_(False)

    def train(self, mode: bool = True) -> Pyramid:
        """Frozen normalisation stays in eval mode."""
        super().train(mode)
        for norm in batch_norms(self.body) if self.frozen else ():
            norm.eval()
        return self

    def maps(self, images: Tensor) -> OrderedDict[str, Tensor]:
        """The body's maps, from fine to coarse."""
        maps = self.body((images - self.mean) / self.std)
        return maps if isinstance(maps, OrderedDict) else OrderedDict((str(i), m) for i, m in enumerate(maps))

    def forward(self, images: Tensor) -> OrderedDict[str, Tensor]:
        levels: OrderedDict[str, Tensor] = self.fpn(self.maps(images))
        return levels


def batch_norms(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, BATCH_NORM)]


def tiny_pyramid(options: TinyOptions, channels: int) -> Pyramid:
    """Stem at stride 2, then for each level a convolution of stride 2 and one of stride 1."""
    conv = partial(Conv2dNormActivation, norm_layer=_norm(options.norm))
    body: OrderedDict[str, nn.Module] = OrderedDict(stem=conv(channels, options.features[0] // 2 or 1, stride=2))
    width = options.features[0] // 2 or 1
    for number, wider in enumerate(options.features):
        body[f"layer{number + 1}"] = nn.Sequential(conv(width, wider, stride=2), conv(wider, wider))
        width = wider
    return _with_levels(nn.Sequential(body), list(options.features), options, channels)


def resnet_pyramid(options: ResNetOptions, channels: int) -> Pyramid:
    make = {18: resnet.resnet18, 34: resnet.resnet34, 50: resnet.resnet50}[options.depth]
    body = make(weights=None, norm_layer=_norm(options.norm))
    if channels != 3:
        body.conv1 = nn.Conv2d(channels, 64, 7, stride=2, padding=3, bias=False)
    deepest = body.inplanes
    return _with_levels(body, [deepest // 8, deepest // 4, deepest // 2, deepest], options, channels)


def timm_pyramid(options: TimmOptions, channels: int) -> Pyramid:
    """Raises InputError: timm is not installed, no such network, or one without maps at strides 4 to 32."""
    try:
        from timm import create_model
    except ImportError:
        raise InputError("backbone.kind is 'timm', which needs timm: pip install 'medkd[detection]'") from None
    make: Callable[..., Any] = partial(
        create_model, options.name, pretrained=False, features_only=True, in_chans=channels
    )
    try:
        strides = make().feature_info.reduction()
    except (RuntimeError, AttributeError) as error:
        raise InputError(f"backbone.name is {options.name!r}, which timm does not give maps of: {error}") from None
    wanted = [i for i, stride in enumerate(strides) if stride in (4, 8, 16, 32)]
    if len(wanted) != 4:
        raise InputError(f"backbone.name is {options.name!r} with maps at strides {strides}; needed: 4, 8, 16, 32")
    body = make(out_indices=wanted)
    return Pyramid(body, body.feature_info.channels(), options, channels)


def load_backbone(detector: nn.Module, path: Path) -> None:
    """Load the weights of the body of a detector's `backbone`, such as ImageNet's, under the library's own names.

    Tensors that the body does not have (a classifier) are left out. Raises InputError: a detector without a Pyramid,
    a file that is not safetensors, a tensor of the body that is missing or of another shape.
    """
    pyramid = getattr(detector, "backbone", None)
    if not isinstance(pyramid, Pyramid):
        raise InputError(f"backbone_weights is {path}, but {type(detector).__name__} has no backbone to load it into")
    given, mine = read_weights(path), pyramid.body.state_dict()
    wrong = [
        f"{name} is {tuple(given[name].shape) if name in given else 'missing'}, needed {tuple(value.shape)}"
        for name, value in mine.items()
        if not name.endswith("num_batches_tracked") and (name not in given or given[name].shape != value.shape)
    ]
    if wrong:
        raise InputError(f"{path} holds the weights of another backbone: {'; '.join(wrong[:3])}")
    pyramid.body.load_state_dict({name: given.get(name, value) for name, value in mine.items()})


def _with_levels(body: nn.Module, widths: list[int], options: BackboneOptions, channels: int) -> Pyramid:
    layers = {f"layer{i + 1}": str(i) for i in range(len(widths))}
    return Pyramid(IntermediateLayerGetter(body, layers), widths, options, channels)


def _norm(name: str) -> Callable[[int], nn.Module]:
    return _group_norm if name == "group" else nn.BatchNorm2d


def _group_norm(width: int) -> nn.Module:
    """Groups of 8 channels, or one group where they do not divide the width."""
    return nn.GroupNorm(width // 8 if width % 8 == 0 else 1, width)
