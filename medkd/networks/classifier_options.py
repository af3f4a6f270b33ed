"""Classifiers by name: an image to a logit a class. No torch at import; nothing is ever downloaded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, PositiveInt

from medkd.engine.options import Options
from medkd.networks.options import Norm

if TYPE_CHECKING:
    from torch import nn

TORCHVISION = Literal[
    "resnet18", "resnet34", "resnet50", "densenet121", "efficientnet_b0", "mobilenet_v3_small", "convnext_tiny"
]
DENSENET_BLOCKS = {121: (6, 12, 24, 16), 169: (6, 12, 32, 32), 201: (6, 12, 48, 32), 264: (6, 12, 64, 48)}


class TinyCNNOptions(Options):
    """A 3 x 3 convolution a level, halved in between, and a mean over the image: for a CPU and small images."""

    kind: Literal["TinyCNN"] = "TinyCNN"
    features: tuple[PositiveInt, ...] = Field((16, 32, 64), min_length=1)
    norm: Norm = "batch"
    dropout: float = Field(0.0, ge=0, lt=1, description="before the last layer")

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from medkd.networks.classifiers import TinyCNN

        return TinyCNN(dims, channels, classes, self.features, self.norm, self.dropout)


class DenseNetOptions(Options):
    """MONAI DenseNet, 2-D and 3-D."""

    kind: Literal["DenseNet"] = "DenseNet"
    depth: Literal[121, 169, 201, 264] = 121
    features: PositiveInt = Field(64, description="of the first layer")
    growth: PositiveInt = 32
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from monai.networks.nets import DenseNet

        return DenseNet(
            dims, channels, classes, init_features=self.features, growth_rate=self.growth,
            block_config=DENSENET_BLOCKS[self.depth], dropout_prob=self.dropout,
        )  # fmt: skip


class ResNetOptions(Options):
    """MONAI ResNet, 2-D and 3-D, with the first stride of torchvision's."""

    kind: Literal["ResNet"] = "ResNet"
    depth: Literal[10, 18, 34, 50, 101, 152, 200] = 18
    widen: float = Field(1.0, gt=0, description="factor on the number of channels")

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from monai.networks.nets import resnet

        made: nn.Module = getattr(resnet, f"resnet{self.depth}")(
            spatial_dims=dims, n_input_channels=channels, num_classes=classes, conv1_t_stride=2,
            widen_factor=self.widen, bias_downsample=False,
        )  # fmt: skip
        return made


class TorchvisionOptions(Options):
    """A classifier of torchvision by its name there, 2-D, with untrained weights."""

    kind: Literal["torchvision"] = "torchvision"
    name: TORCHVISION = "resnet18"

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from medkd.networks.classifiers import torchvision_classifier

        return torchvision_classifier(self.name, dims, channels, classes)


EncoderOptions = Annotated[
    TinyCNNOptions | DenseNetOptions | ResNetOptions | TorchvisionOptions, Field(discriminator="kind")
]


class ReusedHeadOptions(Options):
    """A small encoder, a projector, and the head of a large classifier: the student of `simkd`."""

    kind: Literal["ReusedHead"] = "ReusedHead"
    encoder: EncoderOptions = TinyCNNOptions()
    width: PositiveInt = Field(64, description="channels of the large classifier's last map")
    reduction: PositiveInt = Field(2, description="of the width, in the middle of the projector")

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from medkd.networks.reused_head import ReusedHead

        encoder = self.encoder.build(dims, channels, classes)
        return ReusedHead(encoder, dims, classes, self.width, self.reduction)


ClassifierOptions = Annotated[
    TinyCNNOptions | DenseNetOptions | ResNetOptions | TorchvisionOptions | ReusedHeadOptions,
    Field(discriminator="kind"),
]
