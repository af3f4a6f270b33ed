"""Typed options of images for detection: what the network sees, and the views of training. No torch at import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from medkd.data.options import Percent
from medkd.engine.options import Options

Share = Annotated[float, Field(ge=0, le=1)]


class DetectionPreprocess(Options):
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
    def _agree(self) -> DetectionPreprocess:
        if len(self.size) != self.dims:
            raise ValueError(f"size has {len(self.size)} entries, needed dims = {self.dims}")
        if self.low >= self.high or self.percentiles[0] >= self.percentiles[1]:
            raise ValueError("low must be below high, of the window and of the percentiles")
        return self


class DetectionAugment(Options):
    """A weak view and, of the same place, a strong one.

    The weak view is one geometric transform, drawn once an image: flips, turns by 90 degrees, scale and shift. They
    keep boxes boxes; there is no rotation by other angles on purpose. The strong view is the weak one with other
    colours, blur and erased rectangles (published values of teacher-student detection): `colour`, `grey`, `blur`,
    `noise` and `erase` are probabilities, brightness to hue the largest relative changes.
    """

    flip: tuple[Share, ...] = Field((0.5, 0.0), description="probability of a flip along x and y (3-D: x, y, z)")
    turn: Share = Field(0.0, description="of turns by 90 degrees; square 2-D images only")
    scale: tuple[float, float] = (1.0, 1.0)
    shift: Share = Field(0.0, description="largest shift as a share of the size")
    min_visible: Share = Field(0.3, description="a box with a smaller share of it in the view is dropped")
    colour: Share = 0.8
    brightness: Share = 0.4
    contrast: Share = 0.4
    saturation: Share = 0.4
    hue: float = Field(0.1, ge=0, le=0.5)
    grey: Share = 0.2
    blur: Share = 0.5
    blur_sigma: tuple[float, float] = (0.1, 2.0)
    noise: Share = Field(0.0, description="of Gaussian noise with a standard deviation of up to 0.05")
    erase: tuple[Share, ...] = (0.7, 0.5, 0.3)
    erase_area: tuple[float, float] = (0.02, 0.15)

    @model_validator(mode="after")
    def _ranges(self) -> DetectionAugment:
        if not 0 < self.scale[0] <= self.scale[1] or not 0 < self.blur_sigma[0] <= self.blur_sigma[1]:
            raise ValueError("scale and blur_sigma are ranges: low first, above 0")
        return self
