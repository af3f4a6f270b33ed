"""Intensity transforms of a batch, each on the samples that drew it (NaN: not drawn). They leave labels alone.

They hold for images scaled to [0, 1] and for z-scored ones: contrast is about each image's mean, gamma works on the
image's own range, and noise is in units of its standard deviation.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F


def apply_intensity(image: Tensor, view: dict[str, Tensor]) -> Tensor:
    """Apply the drawn transforms in nnU-Net's order to images (B, C, *S). The view stays on the CPU: no device sync."""
    for name, transform in INTENSITY.items():
        if name not in view:
            continue
        rows = (~view[name].isnan()).nonzero()[:, 0]
        if not len(rows):
            continue
        seeds = view["noise_seed"][rows] if name == "noise" else None
        chosen = rows.to(image.device)
        image = image.index_copy(0, chosen, transform(image[chosen], view[name][rows], seeds))
    return image


def _noise(image: Tensor, level: Tensor, seeds: Tensor | None) -> Tensor:
    """Gaussian noise of `level` standard deviations of the image; generated from the view's seed."""
    assert seeds is not None
    noise = torch.empty_like(image)
    for row, seed in enumerate(seeds.tolist()):
        noise[row].normal_(generator=torch.Generator(image.device).manual_seed(seed))
    return image + noise * _broadcast(level, image) * image.std(_space(image), keepdim=True)


def _blur(image: Tensor, sigma: Tensor, _: Tensor | None) -> Tensor:
    """Separable Gaussian blur, one sigma (pixels) a sample; edges repeat."""
    radius = max(1, int(3 * float(sigma.max()) + 0.5))
    steps = torch.arange(-radius, radius + 1)
    near = steps.abs() <= 3 * sigma[:, None] + 0.5  # each sample's own reach, whatever the others drew
    kernel = torch.exp(-0.5 * (steps / sigma[:, None]) ** 2) * near
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(image.shape[1], 0).to(image)  # (B * C, taps)
    flat = image.flatten(0, 1)[None]  # (1, B * C, *S): every channel of every sample is its own group
    dims = image.ndim - 2
    convolve: Callable[..., Tensor] = F.conv2d if dims == 2 else F.conv3d
    for axis in range(dims):
        shape = [1] * dims
        shape[axis] = -1
        padding = [0, 0] * dims
        padding[2 * (dims - 1 - axis)] = padding[2 * (dims - 1 - axis) + 1] = radius
        flat = convolve(F.pad(flat, padding, "replicate"), kernel.reshape(len(kernel), 1, *shape), groups=len(kernel))
    return flat[0].unflatten(0, image.shape[:2])


def _brightness(image: Tensor, factor: Tensor, _: Tensor | None) -> Tensor:
    return image * _broadcast(factor, image)


def _contrast(image: Tensor, factor: Tensor, _: Tensor | None) -> Tensor:
    mean, low, high = image.mean(_space(image), keepdim=True), _low(image), _high(image)
    return ((image - mean) * _broadcast(factor, image) + mean).clamp(low, high)


def _low_resolution(image: Tensor, zoom: Tensor, _: Tensor | None) -> Tensor:
    """Nearest down to zoom times the size, linear up again: axis by axis, as every sample has a size of its own."""
    for axis in range(2, image.ndim):
        count = image.shape[axis]
        small = (zoom.double()[:, None] * count).round().clamp(min=1)
        place = ((torch.arange(count) + 0.5) * small / count - 0.5).clamp(min=0)  # of each pixel in the small image
        left = place.floor()
        right = torch.minimum(left + 1, small - 1)
        shape = [-1, *[1] * (image.ndim - 1)]
        shape[axis] = count
        first, second = (
            image.take_along_dim(((j + 0.5) * count / small).long().reshape(shape).to(image.device), axis)
            for j in (left, right)
        )
        image = first.lerp(second, (place - left).reshape(shape).to(image))
    return image


def _gamma(image: Tensor, exponent: Tensor, _: Tensor | None) -> Tensor:
    """Power of the image scaled to its own range; its mean and standard deviation are restored."""
    low, space = _low(image), _space(image)
    span = (_high(image) - low).clamp_min(1e-7)
    bent = ((image - low) / span).clamp(0, 1) ** _broadcast(exponent, image)
    spread = bent.std(space, keepdim=True).clamp_min(1e-7)
    return (bent - bent.mean(space, keepdim=True)) / spread * image.std(space, keepdim=True) + image.mean(
        space, keepdim=True
    )


def _gamma_inverted(image: Tensor, exponent: Tensor, _: Tensor | None) -> Tensor:
    return -_gamma(-image, exponent, None)


def _space(image: Tensor) -> list[int]:
    return list(range(2, image.ndim))


def _low(image: Tensor) -> Tensor:
    return image.amin(_space(image), keepdim=True)


def _high(image: Tensor) -> Tensor:
    return image.amax(_space(image), keepdim=True)


def _broadcast(values: Tensor, image: Tensor) -> Tensor:
    return values.to(image).reshape(-1, *[1] * (image.ndim - 1))


INTENSITY: dict[str, Callable[[Tensor, Tensor, Tensor | None], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "brightness": _brightness,
    "contrast": _contrast,
    "low_resolution": _low_resolution,
    "gamma_inverted": _gamma_inverted,
    "gamma": _gamma,
}
