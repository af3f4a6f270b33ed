"""Classifiers that need more than a constructor call."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from monai.networks.layers.factories import Conv, Norm, Pool
from torch import Tensor, nn

from medkd.errors import InputError


class TinyCNN(nn.Module):
    """`stages`: convolution, normalisation, ReLU, each but the first on maps of half the size; `head`: the logits."""

    def __init__(self, dims: int, channels: int, classes: int, features: Sequence[int], norm: str, dropout: float):
        super().__init__()
        conv, normalise, pool = Conv[Conv.CONV, dims], Norm[norm, dims], Pool[Pool.MAX, dims]
        self.stages = nn.ModuleList()
        for level, (before, width) in enumerate(zip((channels, *features), features)):
            halve = [pool(2, ceil_mode=True)] if level else []
            layers = [conv(before, width, 3, padding=1, bias=False), normalise(width, affine=True), nn.ReLU()]
            self.stages.append(nn.Sequential(*halve, *layers))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(features[-1], classes)

    def forward(self, image: Tensor) -> Tensor:
        for stage in self.stages:
            image = stage(image)
        logits: Tensor = self.head(self.dropout(image.flatten(2).mean(2)))
        return logits


def torchvision_classifier(name: str, dims: int, channels: int, classes: int) -> nn.Module:
    """A network of torchvision with its first convolution made for `channels`. Raises InputError for volumes."""
    import torchvision

    if dims != 2:
        raise InputError(f"torchvision's {name} takes pictures, and the recipe has {dims}-D images; choose DenseNet, "
                         "ResNet or TinyCNN")  # fmt: skip
    network: nn.Module = torchvision.models.get_model(name, weights=None, num_classes=classes)
    if channels != 3:
        path, first = next((p, m) for p, m in network.named_modules() if isinstance(m, nn.Conv2d))
        made = nn.Conv2d(
            channels, first.out_channels, first.kernel_size, first.stride, first.padding,  # type: ignore[arg-type]
            bias=first.bias is not None,
        )  # fmt: skip
        network.set_submodule(path, made)
    return network


def classifier_takes(network: nn.Module, channels: int, size: Sequence[int]) -> None:
    """Raise InputError for images that are too small for a classifier: it would fail in the middle of a step."""
    training = network.training
    try:
        with torch.no_grad():
            network.eval()(torch.zeros(1, channels, *size))
    except RuntimeError as error:
        raise InputError(
            f"images of {' x '.join(map(str, size))} are too small for {type(network).__name__} ({error}); give "
            "a larger preprocess.size, or another network"
        ) from None
    finally:
        network.train(training)
