from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from medkd.data.augment import apply_view, draw_view
from medkd.data.augment_options import PRESETS, AugmentOptions
from medkd.engine.randomness import Draws

SHAPE = (12, 12)
GEOMETRY = {"turn": 0.7, "rotate": 0.7, "scale": 0.7, "elastic": 0.7, "flip": 0.5, "interpolation": "nearest"}


def draws(size: int = 16, start: int = 0, total: int | None = None, step: int = 0) -> Draws:
    return Draws((0, step, "stream"), size, start, total)


def batch(shape: tuple[int, ...] = SHAPE, size: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.rand(size, 1, *shape, generator=g), torch.randint(0, 3, (size, *shape), generator=g)


@pytest.mark.parametrize("shape", [(12, 12), (9, 15), (8, 8, 6)])
def test_an_image_equal_to_its_label_stays_equal(shape: tuple[int, ...]) -> None:
    options = AugmentOptions(**(GEOMETRY | ({"turn": 0.0} if shape[0] != shape[1] else {})))
    _, label = batch(shape)
    view = draw_view(options, draws(), shape)
    image, moved = apply_view(label[:, None].float(), label, view)
    assert moved.dtype == label.dtype
    assert not torch.equal(moved, label)
    assert torch.equal(image[:, 0], moved.float())


def test_no_option_changes_nothing() -> None:
    image, label = batch()
    view = draw_view(AugmentOptions(), draws(), SHAPE)
    done, moved = apply_view(image, label, view)
    assert torch.equal(done, image)
    assert torch.equal(moved, label)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_views_depend_on_the_sample_alone(preset: str) -> None:
    """A batch in two parts draws and makes what the whole batch does; the same call makes the same twice."""
    options = AugmentOptions(preset=preset)
    image, label = batch()
    whole = apply_view(image, label, draw_view(options, draws(), SHAPE))
    again = apply_view(image, label, draw_view(options, draws(), SHAPE))
    for a, b in zip(whole, again):
        assert torch.equal(a, b)
    for start in (0, 8):
        part = draw_view(options, draws(8, start, 16), SHAPE)
        rows = slice(start, start + 8)
        for a, b in zip(apply_view(image[rows], label[rows], part), whole):
            torch.testing.assert_close(a, b[rows], atol=1e-6, rtol=0)


def test_quarter_turns_are_exact() -> None:
    image, label = batch(size=64)
    view = draw_view(AugmentOptions(turn=1.0), draws(64), SHAPE)
    done, moved = apply_view(image, label, view)
    seen = set()
    for row in range(64):
        turns, axis = int(view["quarter_turns"][row]), int(view["turn_flip"][row])
        seen.add((turns, axis))
        assert torch.equal(done[row], image[row].rot90(turns, (1, 2)).flip(1 + axis))
        assert torch.equal(moved[row], label[row].rot90(turns, (0, 1)).flip(axis))
    assert seen == {(k, a) for k in range(4) for a in range(2)}


def test_quarter_turns_of_an_oblong_image_are_refused() -> None:
    image, label = batch((8, 12))
    with pytest.raises(ValueError, match="square"):
        apply_view(image, label, draw_view(AugmentOptions(turn=1.0), draws(), (8, 12)))


def test_a_rotation_by_a_right_angle_is_a_quarter_turn() -> None:
    """In pixels and in the right proportions: the centre of the grid is the centre of the turn."""
    image, _ = batch()
    view = {"angle": torch.full((16,), 90.0), "nearest": torch.ones(16, dtype=torch.bool)}
    done, _ = apply_view(image, None, view)
    assert torch.equal(done, image.rot90(1, (2, 3))) or torch.equal(done, image.rot90(-1, (2, 3)))


def test_an_oblong_image_is_turned_not_sheared() -> None:
    image = torch.zeros(1, 1, 41, 81)
    image[0, 0, 18:23, 30:51] = 1  # a bar of 5 x 21
    done, _ = apply_view(image, None, {"angle": torch.tensor([90.0])})
    ys, xs = (done[0, 0] > 0.5).nonzero(as_tuple=True)
    assert (ys.max() - ys.min() + 1, xs.max() - xs.min() + 1) == (21, 5)


def test_scale_enlarges() -> None:
    image = torch.zeros(1, 1, 80, 80)
    image[0, 0, 30:50, 30:50] = 1
    done, _ = apply_view(image, None, {"scale": torch.tensor([1.5])})
    assert (done > 0.5).sum().item() == pytest.approx(900, rel=0.1)


def test_the_bcp_rule_has_its_frequencies() -> None:
    view = draw_view(AugmentOptions(preset="bcp"), draws(20000), SHAPE)
    turned, angle = view["turn_flip"] >= 0, view["angle"]
    assert turned.float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert ((angle != 0) & turned).sum() == 0
    untouched = ~turned & (angle == 0)  # a rotation by 0 degrees is one of forty
    assert untouched.float().mean().item() == pytest.approx(0.25 + 0.25 / 40, abs=0.02)
    assert set(angle.unique().tolist()) == set(range(-20, 20))
    everything = draw_view(AugmentOptions(preset="mean_teacher"), draws(20000), SHAPE)
    rest = (everything["turn_flip"] < 0) & (everything["angle"] == 0)
    assert rest.float().mean().item() == pytest.approx(0.5 / 40, abs=0.01)


def test_labels_gain_no_value_and_intensities_do_not_touch_them() -> None:
    image, label = batch()
    for preset in ("strong", "light"):
        view = draw_view(AugmentOptions(preset=preset, rotate=1.0), draws(), SHAPE)
        assert set(apply_view(image, label, view)[1].unique().tolist()) <= {0, 1, 2}
    view = draw_view(AugmentOptions(preset="unimatch_strong"), draws(), SHAPE)
    done, moved = apply_view(image, label, view)
    assert torch.equal(moved, label)
    assert not torch.equal(done, image)


@pytest.mark.parametrize("scale", [1.0, 1000.0])
def test_intensities_follow_the_scale_of_the_image(scale: float) -> None:
    """The same view of an image in other units is the same picture in other units."""
    image, _ = batch()
    options = AugmentOptions(noise=1, blur=1, brightness=1, contrast=1, low_resolution=1, gamma_inverted=1, gamma=1)
    view = draw_view(options, draws(), SHAPE)
    done, _ = apply_view(image * scale, None, view)
    expected, _ = apply_view(image, None, view)
    torch.testing.assert_close(done / scale, expected, atol=2e-4, rtol=1e-4)


def test_gamma_keeps_mean_and_spread_and_contrast_the_range() -> None:
    image, _ = batch((32, 32))
    done, _ = apply_view(image, None, draw_view(AugmentOptions(gamma=1.0), draws(), (32, 32)))
    torch.testing.assert_close(done.mean((2, 3)), image.mean((2, 3)))
    torch.testing.assert_close(done.std((2, 3)), image.std((2, 3)))
    done, _ = apply_view(image, None, draw_view(AugmentOptions(contrast=1.0), draws(), (32, 32)))
    assert done.min() >= image.min()
    assert done.max() <= image.max()


def test_blur_keeps_the_mass_of_a_point() -> None:
    image = torch.zeros(1, 1, 31, 31)
    image[0, 0, 15, 15] = 1
    done, _ = apply_view(image, None, {"blur": torch.tensor([1.5])})
    assert done.sum().item() == pytest.approx(1, abs=1e-5)
    spread = (done[0, 0].sum(1) * (torch.arange(31) - 15) ** 2).sum()
    assert spread.item() == pytest.approx(1.5**2, rel=0.1)


def test_noise_has_its_level_and_comes_from_the_view() -> None:
    image = torch.rand(4, 1, 64, 64, generator=torch.Generator().manual_seed(1))
    view = {"noise": torch.full((4,), 0.5), "noise_seed": torch.arange(4)}
    one, two = apply_view(image, None, view)[0], apply_view(image, None, view)[0]
    assert torch.equal(one, two)
    assert ((one - image).std() / image.std()).item() == pytest.approx(0.5, rel=0.05)


def test_bad_options() -> None:
    for wrong in ({"rotate": 1.5}, {"scale_range": (0, 1)}, {"gamma_range": (2, 1)}, {"rotation": 3}, {"preset": "x"}):
        with pytest.raises(ValidationError):
            AugmentOptions(**wrong)
