"""Typed options of preprocessing and of the training streams. No torch at import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from medkd.engine.options import Options

Percent = Annotated[float, Field(ge=0, le=100)]


class Intensity(Options):
    """Per volume and channel, before resampling.

    minmax: to [0, 1] (the published ACDC recipe). percentile: clip to the two percentiles, then to [0, 1] (outliers
    do not darken the rest). zscore: zero mean, unit variance. window: clip to [low, high]
    (Hounsfield units), then to [0, 1].
    """

    kind: Literal["minmax", "percentile", "zscore", "window"] = "percentile"
    percentiles: tuple[Percent, Percent] = (0.0, 99.0)
    low: float = -1000.0
    high: float = 1000.0


class Preprocess(Options):
    """From a scan to what the network sees; the same for training and prediction.

    dims 2: slices along the thickest axis, one sample a slice. dims 3: whole volumes.
    size: resize (every slice or volume) to so many pixels. spacing: resample to so many mm a pixel. Neither: as is.
    patch: the training crop and the prediction window; smaller samples are padded. Axes are those of the RAS+ grid,
    for dims 2 without the slice axis.
    """

    dims: Literal[2, 3] = 2
    intensity: Intensity = Intensity()
    size: tuple[PositiveInt, ...] | None = None
    spacing: tuple[PositiveFloat, ...] | None = None
    patch: tuple[PositiveInt, ...] = (96, 96)
    interpolation: Literal["nearest", "linear", "area"] = Field("area", description="of images when resampled")

    @model_validator(mode="after")
    def _lengths(self) -> Preprocess:
        for name in ("size", "spacing", "patch"):
            value = getattr(self, name)
            if value is not None and len(value) != self.dims:
                raise ValueError(f"{name} has {len(value)} entries, needed dims = {self.dims}")
        if self.size and self.spacing:
            raise ValueError("size and spacing are both given; give one")
        return self
