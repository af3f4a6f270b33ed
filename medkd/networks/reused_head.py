"""A small classifier with the head of a large one: encoder, projector into the large one's features, its linear head.

What SimKD (Chen et al., CVPR 2022, arXiv 2203.14001) trains and ships: the projector is part of the network, and the
head is copied from the teacher and stays as it is.
"""

from __future__ import annotations

import torchvision
from monai.networks.layers.factories import Conv, Norm
from monai.networks.nets import ResNet
from torch import Tensor, nn

from medkd.engine.taps import replaced
from medkd.errors import InputError
from medkd.networks.classifiers import TinyCNN

PROJECTOR, HEAD = "projector", "head"
"""Paths of a ReusedHead's parts."""


class ReusedHead(nn.Module):
    """width: channels of the last map of the network whose head this one gets; classes: of that head."""

    def __init__(self, encoder: nn.Module, dims: int, classes: int, width: int, reduction: int):
        super().__init__()
        self.path, own, channels = parts_of(encoder)
        encoder.set_submodule(own, nn.Identity())
        self.encoder, self.head = encoder, nn.Linear(width, classes)
        self.projector = bottleneck(dims, channels, width, reduction)

    def forward(self, image: Tensor) -> Tensor:
        """(B, K): the head of the mean over positions of the projected last map."""
        found: list[Tensor] = []

        def keep(_path: str, output: Tensor) -> Tensor:
            found.append(output)
            return output

        with replaced(self.encoder, [self.path], keep):
            self.encoder(image)
        logits: Tensor = self.head(self.projector(found[-1]).flatten(2).mean(2))
        return logits


def parts_of(network: nn.Module) -> tuple[str, str, int]:
    """(path of the last map, after its ReLU; path of the linear head; channels of the map).

    Raises InputError for a network of which they are not known.
    """
    if isinstance(network, TinyCNN):
        return f"stages.{len(network.stages) - 1}", "head", network.head.in_features
    if isinstance(network, (ResNet, torchvision.models.ResNet)):
        assert isinstance(network.fc, nn.Linear)
        return "layer4", "fc", network.fc.in_features
    raise InputError(
        f"the last map of {type(network).__name__} is not known; the encoder of a ReusedHead is a TinyCNN, a ResNet or "
        "one of torchvision's resnets"
    )


def bottleneck(dims: int, inputs: int, outputs: int, reduction: int) -> nn.Sequential:
    """1x1, 3x3, 1x1 convolutions, each with batch normalisation and ReLU, outputs / reduction channels in the middle.

    Raises InputError where the reduction does not divide them.
    """
    if reduction < 1 or outputs % reduction:
        raise InputError(f"reduction is {reduction}; it must divide the teacher's {outputs} channels")
    middle = outputs // reduction
    layers: list[nn.Module] = []
    for before, after, kernel in ((inputs, middle, 1), (middle, middle, 3), (middle, outputs, 1)):
        conv = Conv[Conv.CONV, dims](before, after, kernel, padding=kernel // 2, bias=False)
        layers += [conv, Norm[Norm.BATCH, dims](after), nn.ReLU()]
    return nn.Sequential(*layers)
