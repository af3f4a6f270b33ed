"""Typed options of single images: what the network sees of them. No torch at import."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveInt, model_validator

from medkd.data.options import Percent
from medkd.engine.options import Options


class ImagePreprocess(Options):
    """From a stored image to what the network sees, in [0, 1]; the same for training and prediction.

    size: of the network's image: (H, W), or (X, Y, Z) of volumes. keep_aspect: scale all axes by one factor and pad
    with 0 at their high ends; otherwise each axis is scaled by itself. intensity: full, the range of the stored type
    (8-bit pictures); percentile, of the image's values above its lowest (16-bit mammograms: what surrounds the breast
    does not count); window, from `low` to `high` (Hounsfield units).
    """

    dims: Literal[2, 3] = 2
    size: tuple[PositiveInt, ...] = (512, 512)
    keep_aspect: bool = True
    intensity: Literal["full", "percentile", "window"] = "full"
    percentiles: tuple[Percent, Percent] = (0.5, 99.5)
    low: float = -1000.0
    high: float = 400.0

    @model_validator(mode="after")
    def _agree(self) -> ImagePreprocess:
        if len(self.size) != self.dims:
            raise ValueError(f"size has {len(self.size)} entries, needed dims = {self.dims}")
        if self.low >= self.high or self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("low must be below high, of the window and of the percentiles")
        return self
