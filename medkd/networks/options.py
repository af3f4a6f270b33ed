"""Networks by name. No torch at import; `build` makes the network with the task's channels, classes and dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from medkd.engine.options import Options

if TYPE_CHECKING:
    from torch import nn

Norm = Literal["batch", "instance"]


class BasicUNetOptions(Options):
    """MONAI BasicUNet: two convolutions a level, five levels. The default is the U-Net of the published ACDC recipes.

    With few labelled scans `instance` normalisation is the better choice (docs/diary.md).
    """

    kind: Literal["BasicUNet"] = "BasicUNet"
    features: tuple[PositiveInt, PositiveInt, PositiveInt, PositiveInt, PositiveInt] = (16, 32, 64, 128, 256)
    norm: Norm = "batch"
    dropout: tuple[NonNegativeFloat, ...] = Field(
        (0.05, 0.1, 0.2, 0.3, 0.5), description="of the five encoder levels; one number for all; the decoder has none"
    )
    upsample: Literal["deconv", "bilinear"] = "bilinear"

    @model_validator(mode="after")
    def _levels(self) -> BasicUNetOptions:
        if len(self.dropout) not in (1, 5):
            raise ValueError(f"dropout has {len(self.dropout)} entries; allowed: 1 or 5")
        return self

    def build(self, dims: int, channels: int, classes: int, patch: tuple[int, ...]) -> nn.Module:
        from medkd.networks.build import basic_unet

        return basic_unet(self, dims, channels, classes)


class UNetOptions(Options):
    """MONAI UNet: strided convolutions and residual units."""

    kind: Literal["UNet"] = "UNet"
    features: tuple[PositiveInt, ...] = (16, 32, 64, 128)
    residual_units: int = Field(2, ge=0)
    norm: Norm = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, dims: int, channels: int, classes: int, patch: tuple[int, ...]) -> nn.Module:
        from monai.networks.nets import UNet

        strides = (2,) * (len(self.features) - 1)
        return UNet(
            dims, channels, classes, self.features, strides,
            num_res_units=self.residual_units, norm=self.norm, dropout=self.dropout,
        )  # fmt: skip


class DynUNetOptions(Options):
    """MONAI DynUNet: nnU-Net's plain U-Net with instance normalisation, optionally with deep supervision."""

    kind: Literal["DynUNet"] = "DynUNet"
    features: tuple[PositiveInt, ...] = (16, 32, 64, 128, 256)
    norm: Norm = "instance"
    deep_supervision: int = Field(0, ge=0, description="extra outputs of the decoder that are supervised")

    def build(self, dims: int, channels: int, classes: int, patch: tuple[int, ...]) -> nn.Module:
        from monai.networks.nets import DynUNet

        levels = len(self.features)
        return DynUNet(
            dims, channels, classes, kernel_size=[3] * levels, strides=[1] + [2] * (levels - 1),
            upsample_kernel_size=[2] * (levels - 1), filters=list(self.features), norm_name=self.norm,
            deep_supervision=self.deep_supervision > 0, deep_supr_num=max(1, self.deep_supervision),
        )  # fmt: skip


class VNetOptions(Options):
    """MONAI VNet (16 filters): the network of the published left-atrium recipes."""

    kind: Literal["VNet"] = "VNet"
    dropout: float = Field(0.5, ge=0, lt=1)

    def build(self, dims: int, channels: int, classes: int, patch: tuple[int, ...]) -> nn.Module:
        from monai.networks.nets import VNet

        return VNet(
            dims, channels, classes, dropout_prob_down=self.dropout, dropout_prob_up=(self.dropout, self.dropout)
        )


class SegResNetOptions(Options):
    """MONAI SegResNet: residual encoder, light decoder, group normalisation."""

    kind: Literal["SegResNet"] = "SegResNet"
    filters: PositiveInt = 8
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, dims: int, channels: int, classes: int, patch: tuple[int, ...]) -> nn.Module:
        from monai.networks.nets import SegResNet

        return SegResNet(dims, self.filters, channels, classes, dropout_prob=self.dropout or None)


class SwinUNETROptions(Options):
    """MONAI SwinUNETR: a shifted-window transformer encoder; the patch must be a multiple of 32, at least 64."""

    kind: Literal["SwinUNETR"] = "SwinUNETR"
    features: PositiveInt = Field(24, multiple_of=12)
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, dims: int, channels: int, classes: int, patch: tuple[int, ...]) -> nn.Module:
        from monai.networks.nets import SwinUNETR

        return SwinUNETR(channels, classes, feature_size=self.features, drop_rate=self.dropout, spatial_dims=dims)


NetworkOptions = Annotated[
    BasicUNetOptions | UNetOptions | DynUNetOptions | VNetOptions | SegResNetOptions | SwinUNETROptions,
    Field(discriminator="kind"),
]
