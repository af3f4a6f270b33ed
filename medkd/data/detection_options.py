"""Typed options of the views of an image that detectors are trained on. No torch at import."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from medkd.engine.options import Options

Share = Annotated[float, Field(ge=0, le=1)]


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
