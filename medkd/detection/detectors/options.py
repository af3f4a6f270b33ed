"""Detectors by name. No torch at import; `build` makes one with the task's channels, classes and dimensions."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medkd.engine.options import Options
from medkd.errors import InputError

if TYPE_CHECKING:
    from torch import nn

    from medkd.detection.detectors.pyramid import Pyramid

BatchNorm = Literal["batch", "frozen", "group"]
Ratios = tuple[PositiveFloat, ...]


class BackboneOptions(Options):
    """What all backbones have: a feature pyramid on maps at strides 4, 8, 16 and, where they go that deep, 32.

    norm: `batch` normalises with the statistics of the batch in training and keeps running ones (AdaBN re-estimates
    them); `frozen` always uses the running statistics and trains nothing of the layer; `group` has no statistics.
    """

    kind: str
    norm: BatchNorm = "batch"
    pyramid: PositiveInt = Field(256, description="channels of the feature pyramid")
    mean: tuple[float, ...] = Field((0.5,), description="of the images, which come in [0, 1]; one, or one a channel")
    std: tuple[PositiveFloat, ...] = (0.5,)

    def build(self, channels: int) -> Pyramid:
        raise NotImplementedError(f"{type(self).__name__} does not implement build")


class TinyOptions(BackboneOptions):
    """Two plain 3 x 3 convolutions a level, for a CPU and for small objects; trained from nothing."""

    kind: Literal["tiny"] = "tiny"
    features: tuple[PositiveInt, ...] = Field(
        (24, 48, 96), min_length=2, max_length=4, description="at stride 4, 8, .."
    )
    pyramid: PositiveInt = 48

    def build(self, channels: int) -> Pyramid:
        from medkd.detection.detectors.pyramid import tiny_pyramid

        return tiny_pyramid(self, channels)


class ResNetOptions(BackboneOptions):
    """torchvision ResNet."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50] = 50
    mean: tuple[float, ...] = Field((0.485, 0.456, 0.406), description="ImageNet's; their mean for other channels")
    std: tuple[PositiveFloat, ...] = (0.229, 0.224, 0.225)

    def build(self, channels: int) -> Pyramid:
        from medkd.detection.detectors.pyramid import resnet_pyramid

        return resnet_pyramid(self, channels)


class TimmOptions(BackboneOptions):
    """Any timm network that gives feature maps; needs `pip install medkd[detection]`."""

    kind: Literal["timm"] = "timm"
    name: str = "tf_efficientnet_lite0"
    norm: Literal["batch", "frozen"] = "batch"
    pyramid: PositiveInt = 64

    def build(self, channels: int) -> Pyramid:
        from medkd.detection.detectors.pyramid import timm_pyramid

        return timm_pyramid(self, channels)


Backbone = Annotated[TinyOptions | ResNetOptions | TimmOptions, Field(discriminator="kind")]


class DetectorOptions(Options):
    """Base of the detectors."""

    kind: str

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        """A detector (`Detector`) of images with `dims` spatial axes. Raises InputError for dims it cannot do."""
        raise NotImplementedError(f"{type(self).__name__} does not implement build")


class FasterRCNNOptions(DetectorOptions):
    """torchvision Faster R-CNN on a feature pyramid: the default in 2-D."""

    kind: Literal["faster_rcnn"] = "faster_rcnn"
    backbone: Backbone = TinyOptions()
    anchor_scale: PositiveFloat = Field(8.0, description="side of an anchor in strides of its level: 32 pixels at 4")
    ratios: Ratios = (0.5, 1.0, 2.0)
    head: PositiveInt = Field(1024, description="width of the two layers that read a region")
    proposals: PositiveInt = Field(1000, description="regions an image that the proposal network hands on")
    rpn_samples: PositiveInt = Field(256, description="anchors an image in the objectness loss, up to half positive")
    roi_samples: PositiveInt = Field(512, description="regions an image in the head's losses, up to a quarter positive")
    nms: float = Field(0.5, gt=0, le=1, description="overlap (IoU) above which the lower of two detections goes")
    detections: PositiveInt = Field(100, description="most detections an image")

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from medkd.detection.detectors.torchvision_rcnn import faster_rcnn

        return faster_rcnn(self, dims, channels, classes)


class DenseOptions(DetectorOptions):
    """What one-stage detectors share. Their heads normalise in groups of channels: `pyramid` is a multiple of 8."""

    nms: float = Field(0.5, gt=0, le=1, description="overlap (IoU) above which the lower of two detections goes")
    detections: PositiveInt = Field(100, description="most detections an image")


class RetinaNetOptions(DenseOptions):
    """torchvision RetinaNet: anchors and focal loss."""

    kind: Literal["retinanet"] = "retinanet"
    backbone: Backbone = TinyOptions()
    anchor_scale: PositiveFloat = Field(8.0, description="smallest side of an anchor in strides of its level")
    ratios: Ratios = (0.5, 1.0, 2.0)

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from medkd.detection.detectors.torchvision_dense import retinanet

        return retinanet(self, dims, channels, classes)


class FCOSOptions(DenseOptions):
    """torchvision FCOS: no anchors, one box a point."""

    kind: Literal["fcos"] = "fcos"
    backbone: Backbone = TinyOptions()

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from medkd.detection.detectors.torchvision_dense import fcos

        return fcos(self, dims, channels, classes)


class MonaiRetinaNetOptions(DenseOptions):
    """MONAI RetinaNet in 2-D and 3-D, with a plain convolutional body."""

    kind: Literal["monai_retinanet"] = "monai_retinanet"
    features: tuple[PositiveInt, ...] = Field((16, 32, 64), min_length=2, description="of the body, from stride 2 on")
    pyramid: PositiveInt = Field(32, multiple_of=8, description="channels of the feature pyramid")
    norm: Literal["batch", "instance"] = "batch"
    anchor_scale: PositiveFloat = Field(4.0, description="side of an anchor in strides of its level")

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        from medkd.detection.detectors.monai_retinanet import monai_retinanet

        return monai_retinanet(self, dims, channels, classes)


class Detectron2Options(DetectorOptions):
    """detectron2 Faster R-CNN. detectron2 is no dependency: the user installs it from source (docs/detection.md).

    settings: what differs from detectron2's Faster R-CNN with a feature pyramid on ResNet-50, with the keys of its
    configs. config: a config file; what it says of the network is read into `settings` at once, which may change it, so
    that neither a run nor a model needs the file.
    """

    kind: Literal["detectron2"] = "detectron2"
    config: str | None = Field(None, description="a YAML config of detectron2, such as a training's config.yaml")
    settings: dict[str, Any] = Field({}, description="such as {MODEL: {RESNETS: {DEPTH: 101}}}")

    @model_validator(mode="before")
    @classmethod
    def _read(cls, values: Any) -> Any:
        if not isinstance(values, dict) or values.get("config") is None:
            return values
        from medkd.detection.detectors.detectron2_config import merged, read_network

        changes = values.get("settings", {})
        if not isinstance(changes, dict):
            return values
        return {**values, "config": None, "settings": merged(read_network(Path(str(values["config"]))), changes)}

    def build(self, dims: int, channels: int, classes: int) -> nn.Module:
        if find_spec("detectron2") is None:
            raise InputError(f"detector.kind is 'detectron2', which is not installed. {INSTALL_DETECTRON2}")
        try:
            from medkd.detection.detectors.detectron2_rcnn import detectron2_rcnn
        except ImportError as error:
            raise InputError(f"detectron2 cannot be imported: {error}. {INSTALL_DETECTRON2}") from None
        return detectron2_rcnn(self, dims, channels, classes)


INSTALL_DETECTRON2 = (
    "Install it from source, beside the torch it will run with: pip install 'setuptools<81' wheel, then "
    "pip install --no-build-isolation 'git+https://github.com/facebookresearch/detectron2.git' (docs/detection.md)"
)

DetectorUnion = Annotated[
    FasterRCNNOptions | RetinaNetOptions | FCOSOptions | MonaiRetinaNetOptions | Detectron2Options,
    Field(discriminator="kind"),
]
