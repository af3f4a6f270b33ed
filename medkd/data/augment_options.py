"""Options of augmentation. A preset fills the fields that are not given. No torch at import."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, FiniteFloat, model_validator

from medkd.engine.options import Options

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[FiniteFloat, FiniteFloat]

PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # BCP's ACDC rule: half rot90 and flip; of the rest, half a rotation by a whole number of degrees; 25 % untouched.
    "bcp": {"turn": 0.5, "turn_else_rotate": 0.5, "rotation_degrees": (-20, 20), "interpolation": "nearest"},
    # SSL4MIS's rule: the same, with nothing untouched.
    "mean_teacher": {"turn": 0.5, "turn_else_rotate": 1.0, "rotation_degrees": (-20, 20), "interpolation": "nearest"},
    # BCP's left-atrium rule: always rot90 in the axial plane and a flip.
    "bcp_3d": {"turn": 1.0},
    # For few labels and pictures of fixed orientation: small changes of pose and of grey values.
    "light": {
        "rotate": 0.7, "rotation_degrees": (-20, 20), "scale": 0.5, "scale_range": (0.85, 1.15),
        "brightness": 0.3, "brightness_range": (0.8, 1.25), "contrast": 0.3, "contrast_range": (0.75, 1.25),
        "gamma": 0.3, "gamma_range": (0.7, 1.5),
    },
    # The augmentation of the nnU-Net recipe. It draws blur (0.2) and low resolution (0.25) again for each channel, with
    # probability 1/2; here all channels share one draw, so the probabilities are halved.
    "strong": {
        "rotate": 0.2, "rotation_degrees": (-180, 180), "scale": 0.2, "scale_range": (0.7, 1.4),
        "noise": 0.1, "noise_range": (0, 0.1), "blur": 0.1, "blur_range": (0.5, 1.0),
        "brightness": 0.15, "brightness_range": (0.75, 1.25), "contrast": 0.15, "contrast_range": (0.75, 1.25),
        "low_resolution": 0.125, "low_resolution_range": (0.5, 1.0), "gamma_inverted": 0.1,
        "gamma": 0.3, "gamma_range": (0.7, 1.5), "flip": 0.5,
    },
    # The strong views of UniMatch on one-channel images: they keep every pixel in its place.
    "unimatch_strong": {
        "jitter": 0.8, "brightness_range": (0.5, 1.5), "contrast_range": (0.5, 1.5),
        "blur": 0.5, "blur_range": (0.1, 2.0),
    },
}  # fmt: skip


class AugmentOptions(Options):
    """Each transform has a probability under its own name; its parameters are drawn once a sample.

    Geometry, image and label alike: `turn` (rot90 in the first two axes and a flip), else, with probability
    `turn_else_rotate`, a rotation by a whole number of degrees; `rotate`, `scale`, `elastic`, `flip` (each axis).
    Intensities, image only: `noise` (sd), `blur` (sigma in pixels), `brightness` (factor), `contrast` (factor about the
    mean, clamped to the old range), `jitter` (brightness and contrast, both or neither), `low_resolution` (zoom),
    `gamma_inverted` and `gamma` (exponent; mean and sd restored).
    3-D rotations of `rotate` and `turn_else_rotate` are in the plane of the first two axes.
    """

    preset: Literal["none", "bcp", "bcp_3d", "mean_teacher", "light", "strong", "unimatch_strong"] = "none"
    interpolation: Literal["linear", "nearest"] = "linear"
    turn: Probability = 0.0
    turn_else_rotate: Probability = 0.0
    rotate: Probability = 0.0
    rotation_degrees: Range = (-20, 20)
    scale: Probability = 0.0
    scale_range: Range = (0.85, 1.15)
    elastic: Probability = 0.0
    elastic_size: float = Field(
        0.05, gt=0, lt=0.5, description="largest displacement of a control point, as a share of the image"
    )
    flip: Probability = 0.0
    noise: Probability = 0.0
    noise_range: Range = (0, 0.1)
    blur: Probability = 0.0
    blur_range: Range = (0.5, 1.0)
    brightness: Probability = 0.0
    brightness_range: Range = (0.75, 1.25)
    contrast: Probability = 0.0
    contrast_range: Range = (0.75, 1.25)
    jitter: Probability = 0.0
    low_resolution: Probability = 0.0
    low_resolution_range: Range = (0.5, 1.0)
    gamma_inverted: Probability = 0.0
    gamma: Probability = 0.0
    gamma_range: Range = (0.7, 1.5)

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: object) -> object:
        if not isinstance(given, dict):
            return given
        return PRESETS.get(str(given.get("preset")), {}) | given

    @model_validator(mode="after")
    def _ranges(self) -> AugmentOptions:
        problems = []
        for name in type(self).model_fields:
            value = getattr(self, name)
            if isinstance(value, tuple) and value[0] > value[1]:
                problems.append(f"{name} is {value}; the first number must not exceed the second")
        for name in ("scale_range", "low_resolution_range", "gamma_range", "blur_range"):
            if getattr(self, name)[0] <= 0:
                problems.append(f"{name} is {getattr(self, name)}; both numbers must be above 0")
        for name in ("noise_range", "brightness_range", "contrast_range"):
            if getattr(self, name)[0] < 0:
                problems.append(f"{name} is {getattr(self, name)}; neither number may be below 0")
        if self.low_resolution_range[1] > 1:
            problems.append(f"low_resolution_range is {self.low_resolution_range}; a zoom must not exceed 1")
        low, high = self.rotation_degrees
        if self.turn_else_rotate and (low % 1 or high % 1 or low == high):
            problems.append(
                f"rotation_degrees is {self.rotation_degrees}; turn_else_rotate draws whole degrees from the first"
                " number up to, not with, the second: give two different whole numbers"
            )
        if problems:
            raise ValueError("; ".join(problems))
        return self
