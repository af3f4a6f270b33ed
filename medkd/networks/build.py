"""Networks that need more than a constructor call, and what methods ask of a network's inside."""

from __future__ import annotations

import torchvision
from monai.networks.nets import BasicUNet, ResNet
from torch import nn

from medkd.networks.classifiers import TinyCNN
from medkd.networks.options import BasicUNetOptions


def basic_unet(options: BasicUNetOptions, dims: int, channels: int, classes: int) -> nn.Module:
    """BasicUNet with the dropout of each encoder level (MONAI takes one number for all)."""
    network = BasicUNet(
        dims, channels, classes, (*options.features, options.features[0]),
        act=("LeakyReLU", {"negative_slope": 0.01, "inplace": True}),
        norm=(options.norm, {"affine": True}), dropout=0.1,
        upsample="deconv" if options.upsample == "deconv" else "nontrainable",
    )  # fmt: skip
    rates = options.dropout * 5 if len(options.dropout) == 1 else options.dropout
    encoder = dict(zip(encoder_levels(network), rates))
    for path, module in network.named_modules():
        if isinstance(module, (nn.Dropout, nn.Dropout2d, nn.Dropout3d)):
            module.p = next((rate for level, rate in encoder.items() if path.startswith(level + ".")), 0.0)
    return network


def encoder_levels(network: nn.Module) -> list[str]:
    """Paths of the modules whose outputs are the encoder's feature levels (skips and bottleneck), shallow to deep.

    Empty for a network whose levels are not known: methods that perturb features then refuse it.
    """
    if isinstance(network, BasicUNet):
        return ["conv_0", "down_1", "down_2", "down_3", "down_4"]
    if isinstance(network, TinyCNN):
        return [f"stages.{level}" for level in range(len(network.stages))]
    if isinstance(network, (ResNet, torchvision.models.ResNet)):
        return ["layer1", "layer2", "layer3", "layer4"]
    return []


def last_features(network: nn.Module) -> str | None:
    """Path of the module whose output, one vector a pixel, the head classifies; None where it is not known."""
    return "upcat_1" if isinstance(network, BasicUNet) else None
