from __future__ import annotations

import pytest
import torch
from scipy import ndimage
from torch.nn import functional as F

from medkd.data.augment import apply_view
from medkd.data.augment_intensity import INTENSITY

RANGES = {
    "noise": (0.1, 0.5), "blur": (0.3, 2), "brightness": (0.5, 1.5), "contrast": (0.5, 1.5),
    "low_resolution": (0.3, 1), "gamma_inverted": (0.5, 2), "gamma": (0.5, 2),
}  # fmt: skip


def images(*shape: int) -> torch.Tensor:
    return torch.rand(*(shape or (8, 2, 24, 24)), generator=torch.Generator().manual_seed(0))


def apply(name: str, image: torch.Tensor) -> torch.Tensor:
    values = torch.linspace(*RANGES[name], len(image))
    return apply_view(image, None, {name: values, "noise_seed": torch.arange(len(image))})[0]


@pytest.mark.parametrize("name", INTENSITY)
def test_follows_the_scale_of_the_image(name: str) -> None:
    """In other units the picture is the same: 0 to 1, 0 to 1000, or, but for brightness, a factor, z-scored."""
    image = images()
    done = apply(name, image)
    assert not torch.allclose(done, image, atol=1e-2)
    torch.testing.assert_close(apply(name, image * 1000) / 1000, done, atol=1e-4, rtol=1e-4)
    if name != "brightness":
        torch.testing.assert_close((apply(name, (image - 0.5) / 0.3) * 0.3 + 0.5), done, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", INTENSITY)
def test_a_constant_image_stays_finite(name: str) -> None:
    assert apply(name, torch.full((3, 1, 8, 8), 0.4)).isfinite().all()


@pytest.mark.parametrize("name", ["gamma", "gamma_inverted"])
def test_gamma_keeps_mean_and_spread(name: str) -> None:
    image = images()
    done = apply(name, image)
    torch.testing.assert_close(done.mean((2, 3)), image.mean((2, 3)))
    torch.testing.assert_close(done.std((2, 3)), image.std((2, 3)))


def test_gamma_bends_the_way_its_exponent_says() -> None:
    """Above 1 the bright end is stretched, on the inverted image the dark end: the median tells which."""
    image = images(1, 1, 64, 64)
    view = torch.tensor([2.0])
    middle = image.median()
    assert apply_view(image, None, {"gamma": view})[0].median() < middle - 0.02
    assert apply_view(image, None, {"gamma_inverted": view})[0].median() > middle + 0.02


def test_contrast_is_about_the_mean_and_keeps_the_range() -> None:
    image = torch.tensor([0.0, 0.4, 0.6, 1.0]).reshape(1, 1, 2, 2)
    half, double = (apply_view(image, None, {"contrast": torch.tensor([f])})[0].flatten() for f in (0.5, 2.0))
    torch.testing.assert_close(half, torch.tensor([0.25, 0.45, 0.55, 0.75]))
    torch.testing.assert_close(double, torch.tensor([0.0, 0.3, 0.7, 1.0]))


@pytest.mark.parametrize("shape", [(5, 2, 20, 17), (3, 1, 14, 12, 9)])
def test_blur_is_scipys(shape: tuple[int, ...]) -> None:
    """Each sample with its own sigma, whatever the widest of the batch."""
    image = images(*shape).double()
    sigmas = torch.linspace(0.3, 2.0, len(image))
    done, _ = apply_view(image, None, {"blur": sigmas})
    for row, sigma in enumerate(sigmas.tolist()):
        for channel in range(shape[1]):
            one = image[row, channel].numpy()
            expected = torch.from_numpy(ndimage.gaussian_filter(one, sigma, mode="nearest", truncate=3))
            torch.testing.assert_close(done[row, channel], expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("shape", [(6, 2, 20, 17), (3, 1, 14, 12, 9)])
def test_low_resolution_is_nearest_down_and_linear_up(shape: tuple[int, ...]) -> None:
    image = images(*shape)
    zooms = torch.linspace(0.33, 0.97, len(image))
    done, _ = apply_view(image, None, {"low_resolution": zooms})
    for row, zoom in enumerate(zooms.tolist()):
        small = F.interpolate(image[row : row + 1], [round(n * zoom) for n in shape[2:]], mode="nearest-exact")
        expected = F.interpolate(small, shape[2:], mode="bilinear" if len(shape) == 4 else "trilinear")
        torch.testing.assert_close(done[row : row + 1], expected, atol=1e-5, rtol=0)


def test_noise_has_its_level_and_comes_from_the_view() -> None:
    image = images(4, 1, 64, 64)
    view = {"noise": torch.full((4,), 0.5), "noise_seed": torch.tensor([0, 1, 2, 0])}
    noise = apply_view(image, None, view)[0] - image
    assert torch.equal(noise, apply_view(image, None, view)[0] - image)
    assert (noise.std() / image.std()).item() == pytest.approx(0.5, rel=0.05)
    pattern = noise / image.std((2, 3), keepdim=True)
    torch.testing.assert_close(pattern[0], pattern[3], atol=1e-4, rtol=0)  # one seed, one pattern
    assert (pattern[0] * pattern[1]).mean().abs() < 0.02
