"""Where the libraries behind the detectors differ from medkd, and the way there and back. Nothing else converts.

             class ids    background        box                                        image
medkd        0 .. K - 1   K, last column    x0, y0, x1, y1; in 3-D along the axes      RGB in [0, 1]
torchvision  1 .. K       0, first column   the same, 2-D                              the same
detectron2   0 .. K - 1   K, last column    the same, 2-D                              BGR or RGB in [0, 255]
MONAI        0 .. K - 1   no column         low and high corner along the axes         the same

Boxes are continuous everywhere: pixel i covers [i, i + 1). Files (COCO, VOC, CSV) are read by medkd/data.
"""

from __future__ import annotations

from torch import Tensor

from medkd.errors import InputError


def torchvision_ids(labels: Tensor, classes: int) -> Tensor:
    """Class ids 0 .. K (K is background) to torchvision's (0 is background)."""
    return (labels + 1) % (classes + 1)


def from_torchvision_columns(values: Tensor) -> Tensor:
    """(R, K + 1) with the background in the first column to the last."""
    return values.roll(-1, 1)


def along_axes(boxes: Tensor) -> Tensor:
    """(N, 4) x0, y0, x1, y1 to the order of the tensor's axes y0, x0, y1, x1, and back; (N, 6) has that order."""
    return boxes[:, [1, 0, 3, 2]] if boxes.shape[1] == 4 else boxes


def detectron2_images(images: Tensor, channels: int, order: str) -> Tensor:
    """(B, C, H, W) RGB in [0, 1] to (B, channels, H, W) in [0, 255], three channels in `order`.

    One channel is repeated: detectron2 reads grey pictures that way. Raises InputError for any other C.
    """
    given = images.shape[1]
    if given not in (1, channels):
        raise InputError(f"an image has {given} channels; this detectron2 model takes {channels}, or 1 to be repeated")
    scaled = 255.0 * images.expand(-1, channels, -1, -1)
    return scaled.flip(1) if order == "BGR" and channels == 3 else scaled
