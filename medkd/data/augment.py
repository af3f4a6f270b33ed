"""Augmentation in batches, on the device the batch is on: parameters drawn once, applied to image and label alike.

`draw_view` draws every parameter of a batch's views on the CPU; each sample's depend on its global index alone.
`apply_view` needs nothing else: both sides of a teacher-student pair can see the same view. A transform that no sample
of the batch drew costs nothing.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.data.augment_intensity import INTENSITY, apply_intensity
from medkd.data.augment_options import AugmentOptions
from medkd.engine.randomness import Draws
from medkd.errors import InputError

View = dict[str, Tensor]
ELASTIC_KNOTS = 4  # control points of the displacement field along each axis


def draw_view(options: AugmentOptions, draws: Draws, spatial: tuple[int, ...]) -> View:
    """Parameters of one view a sample, each (B, ...) on the CPU. An identity parameter means: not drawn.

    Raises InputError for quarter turns of images that are not square in their first two axes.
    """
    dims, o = len(spatial), options
    if o.turn and spatial[0] != spatial[1]:
        raise InputError(
            f"augment.turn (preset {o.preset}) needs images square in their first two axes, not {spatial};"
            " choose a square patch, or turn: 0 and flip instead"
        )
    view: View = {}
    if o.turn:
        turned = draws.uniform("turn") < o.turn
        view["quarter_turns"] = torch.where(turned, draws.integers("quarter turns", 4), 0)
        view["turn_flip"] = torch.where(turned, draws.integers("turn flip", 2), -1)  # the axis, -1 for none
    else:
        turned = torch.zeros(draws.size, dtype=torch.bool)
    angle = torch.zeros(draws.size)
    if o.turn_else_rotate:
        first, last = (int(v) for v in o.rotation_degrees)
        whole = (first + draws.integers("whole degrees", last - first)).float()
        angle = torch.where(~turned & (draws.uniform("else rotate") < o.turn_else_rotate), whole, angle)
    if o.rotate:
        low, high = o.rotation_degrees
        angle = torch.where(draws.uniform("rotate") < o.rotate, draws.uniform("angle", low=low, high=high), angle)
    if o.rotate or o.turn_else_rotate:
        view["angle"] = angle
    if o.scale:
        low, high = o.scale_range
        view["scale"] = torch.where(draws.uniform("scale") < o.scale, draws.uniform("size", low=low, high=high), 1.0)
    if o.elastic:
        field = draws.uniform("elastic field", dims, *[ELASTIC_KNOTS] * dims, low=-1, high=1) * 2 * o.elastic_size
        chosen = draws.uniform("elastic") < o.elastic
        view["elastic"] = field * chosen.reshape(-1, *[1] * (dims + 1))
    if o.flip:
        view["flip"] = draws.uniform("flip", dims) < o.flip
    if o.interpolation == "nearest" and view:
        view["nearest"] = torch.ones(draws.size, dtype=torch.bool)
    for name in INTENSITY:
        jitter = o.jitter if name in ("brightness", "contrast") else 0.0
        if getattr(o, name) or jitter:
            low, high = getattr(o, "gamma_range" if name == "gamma_inverted" else f"{name}_range")
            chosen = (draws.uniform(name) < getattr(o, name)) | (draws.uniform("jitter") < jitter)
            view[name] = torch.where(chosen, _value(name, draws, low, high), torch.nan)  # NaN: not drawn
    if "noise" in view:
        view["noise_seed"] = draws.integers("noise seed", 2**31)
    return view


def _value(name: str, draws: Draws, low: float, high: float) -> Tensor:
    """Factors are drawn below 1 and above 1 equally often (nnU-Net); the rest uniformly."""
    value = draws.uniform(f"{name} value")
    if name in ("noise", "blur", "low_resolution") or not low < 1 < high:
        return low + (high - low) * value
    above = draws.uniform(f"{name} side") < 0.5
    return torch.where(above, 1 + (high - 1) * value, low + (1 - low) * value)


def apply_view(image: Tensor, label: Tensor | None, view: View) -> tuple[Tensor, Tensor | None]:
    """Apply views to images (B, C, *S) and labels (B, *S) or None. What comes from outside the image is 0."""
    image, label = _turn_and_flip(image, label, view)
    rows = _moved(view).nonzero()[:, 0]
    if len(rows):  # the others are not interpolated: they stay as they are, to the last bit
        mode = "nearest" if "nearest" in view else "bilinear"
        chosen = rows.to(image.device)
        before = image[chosen].to(torch.promote_types(image.dtype, torch.float32))  # half would misplace the grid
        grid = _grid(before, rows, view)
        after = F.grid_sample(before, grid, mode, "zeros", align_corners=False)
        image = image.index_copy(0, chosen, after.to(image.dtype))
        if label is not None:
            after = F.grid_sample(label[chosen, None].to(grid), grid, "nearest", "zeros", align_corners=False)
            label = label.index_copy(0, chosen, after[:, 0].to(label.dtype))
    return apply_intensity(image, view), label


def _turn_and_flip(image: Tensor, label: Tensor | None, view: View) -> tuple[Tensor, Tensor | None]:
    """Quarter turns in the first two axes and flips: exact, by groups of samples that drew the same."""
    dims = image.ndim - 2
    rows = len(image)
    turns = view.get("quarter_turns", torch.zeros(rows, dtype=torch.int64))
    flips = view.get("flip", torch.zeros(rows, dims, dtype=torch.bool)).clone()
    axis = view.get("turn_flip", torch.full((rows,), -1))
    # np.rot90 first, then a flip of one of the first two axes
    flips[axis >= 0, axis[axis >= 0]] ^= True
    codes = torch.cat([turns[:, None], flips.long()], 1)
    if not codes.any():
        return image, label
    image = image.clone()
    label = None if label is None else label.clone()
    for code in codes.unique(dim=0):
        if not code.any():
            continue
        chosen = (codes == code).all(1).nonzero()[:, 0].to(image.device)
        axes = [d for d in range(dims) if code[1 + d]]
        image[chosen] = image[chosen].rot90(int(code[0]), (2, 3)).flip([2 + d for d in axes])
        if label is not None:
            label[chosen] = label[chosen].rot90(int(code[0]), (1, 2)).flip([1 + d for d in axes])
    return image, label


def _moved(view: View) -> Tensor:
    """Which samples drew a rotation, a scale or an elastic displacement: (B,) bool, empty if the view has none."""
    drawn = []
    if "angle" in view:
        drawn.append(view["angle"] != 0)
    if "scale" in view:
        drawn.append(view["scale"] != 1)
    if "elastic" in view:
        drawn.append(view["elastic"].flatten(1).any(1))
    return torch.stack(drawn).any(0) if drawn else torch.zeros(0, dtype=torch.bool)


def _grid(image: Tensor, rows: Tensor, view: View) -> Tensor:
    """Sampling positions (rows, *S, dims) of rotation, scaling and elastic displacement together, where the image is.

    Rotations are in pixels, so that a non-square image is turned, not sheared.
    """
    dims, shape = image.ndim - 2, image.shape[2:]
    angle = view["angle"][rows] * math.pi / 180 if "angle" in view else torch.zeros(len(rows))
    scale = view["scale"][rows] if "scale" in view else torch.ones(len(rows))
    matrix = torch.zeros(len(rows), dims, dims + 1)
    for d in range(dims):
        matrix[:, d, d] = 1 / scale
    # grid_sample's coordinates come last axis first: those of the first two array axes are its last two
    first, second = dims - 1, dims - 2
    cosine, sine = torch.cos(angle) / scale, torch.sin(angle) / scale
    ratio = shape[1] / shape[0]
    matrix[:, first, first], matrix[:, second, second] = cosine, cosine
    matrix[:, first, second] = -sine * ratio
    matrix[:, second, first] = sine / ratio
    grid = F.affine_grid(matrix.to(image), [len(rows), 1, *shape], align_corners=False)
    if "elastic" in view:
        mode = "bicubic" if dims == 2 else "trilinear"
        field = F.interpolate(view["elastic"][rows].to(image), tuple(shape), mode=mode, align_corners=True)
        grid = grid + field.movedim(1, -1)
    return grid
