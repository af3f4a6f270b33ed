from __future__ import annotations

from typing import Any

import pytest
import torch
from pydantic import ValidationError
from scipy import ndimage

from medkd.data.augment import apply_view, draw_view
from medkd.data.augment_intensity import INTENSITY
from medkd.data.augment_options import PRESETS, AugmentOptions
from medkd.engine.randomness import Draws
from medkd.errors import InputError

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


def test_what_was_not_drawn_changes_no_bit() -> None:
    """Nor for one sample in a batch where another one was rotated."""
    image, label = batch()
    assert draw_view(AugmentOptions(), draws(), SHAPE) == {}
    zero, one = torch.zeros(16), torch.ones(16)
    for view in ({}, {"angle": zero, "scale": one, "gamma": zero / 0, "flip": torch.zeros(16, 2, dtype=torch.bool)}):
        done, moved = apply_view(image, label, view)
        assert torch.equal(done, image)
        assert torch.equal(moved, label)
    angle = zero.clone()
    angle[3] = 20.0
    gamma = torch.full((16,), torch.nan)
    gamma[5] = 1.4
    done, moved = apply_view(image, label, {"angle": angle, "scale": one, "gamma": gamma})
    assert [r for r in range(16) if not torch.equal(done[r], image[r])] == [3, 5]
    assert [r for r in range(16) if not torch.equal(moved[r], label[r])] == [3]


@pytest.mark.parametrize("preset", sorted(PRESETS))
@pytest.mark.parametrize("shape", [(12, 12), (8, 8, 6)])
def test_presets_run_in_both_dimensions_and_leave_their_input_alone(preset: str, shape: tuple[int, ...]) -> None:
    image, label = batch(shape)
    image, label = image.double().repeat(1, 2, *[1] * len(shape)), label.to(torch.uint8)
    before = image.clone(), label.clone()
    view = draw_view(AugmentOptions(preset=preset), draws(), shape)
    done, moved = apply_view(image, label, view)
    assert (done.dtype, moved.dtype) == (image.dtype, label.dtype)
    assert (done.shape, moved.shape) == (image.shape, label.shape)
    assert done.isfinite().all()
    assert torch.equal(image, before[0])
    assert torch.equal(label, before[1])
    alone, none = apply_view(image, None, view)
    assert none is None
    assert torch.equal(alone, done)


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_views_depend_on_the_sample_alone(preset: str) -> None:
    """A batch in two parts draws and makes what the whole batch does; the same call makes the same twice."""
    options = AugmentOptions(preset=preset)
    image, label = batch()
    whole = apply_view(image, label, draw_view(options, draws(), SHAPE))
    again = apply_view(image, label, draw_view(options, draws(), SHAPE))
    for a, b in zip(whole, again):
        assert torch.equal(a, b)
    numbers = draw_view(options, draws(), SHAPE)
    for start in (0, 8):
        part = draw_view(options, draws(8, start, 16), SHAPE)
        rows = slice(start, start + 8)
        assert part.keys() == numbers.keys()
        for name, value in part.items():
            assert torch.equal(value.nan_to_num(-9), numbers[name][rows].nan_to_num(-9)), name
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
    with pytest.raises(InputError, match=r"square .* not \(8, 12\)"):
        draw_view(AugmentOptions(preset="bcp"), draws(), (8, 12))


def test_a_rotation_by_a_right_angle_is_a_quarter_turn() -> None:
    """In pixels and in the right proportions: the centre of the grid is the centre of the turn."""
    image, _ = batch()
    view = {"angle": torch.full((16,), 90.0), "nearest": torch.ones(16, dtype=torch.bool)}
    done, _ = apply_view(image, None, view)
    assert torch.equal(done, image.rot90(1, (2, 3))) or torch.equal(done, image.rot90(-1, (2, 3)))


@pytest.mark.parametrize("degrees", [-20, -7, 13, 19])
def test_a_nearest_rotation_is_scipys(degrees: int) -> None:
    """order 0, no reshape, zeros from outside: the rotation of the reference, in one of the two directions."""
    blocks = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    image = torch.nn.functional.interpolate(blocks, (64, 64))
    done, _ = apply_view(image, None, {"angle": torch.tensor([float(degrees)]), "nearest": torch.ones(1)})
    same = [
        (ndimage.rotate(image[0, 0].numpy(), sign * degrees, order=0, reshape=False) == done[0, 0].numpy()).mean()
        for sign in (1, -1)
    ]
    assert max(same) > 0.98  # positions half-way between two pixels round either way
    assert min(same) < 0.9


def test_a_rotation_in_3d_turns_every_slice_alike() -> None:
    image = torch.rand(2, 1, 16, 16, 5)
    view = {"angle": torch.tensor([15.0, -40.0])}
    done, _ = apply_view(image, None, view)
    for z in range(5):
        slices, _ = apply_view(image[..., z], None, view)
        torch.testing.assert_close(done[..., z], slices, atol=1e-5, rtol=0)


def test_elastic_displacements_have_their_size() -> None:
    """An image of its own coordinates shows from where each pixel was taken."""
    side = 101
    image = torch.linspace(0, 1, side).expand(8, 1, side, side).clone()
    done, _ = apply_view(image, None, draw_view(AugmentOptions(elastic=1.0, elastic_size=0.05), draws(8), (side, side)))
    moved = (done - image).abs()[..., 15:-15, 15:-15]
    assert 0.02 < moved.amax().item() < 0.065  # between control points a smooth curve may reach a little further
    assert (moved.amax((1, 2, 3)) > 0.01).all()


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


def test_other_frequencies() -> None:
    """nnU-Net draws factors below and above 1 equally often; UniMatch jitters brightness and contrast together."""
    strong = draw_view(AugmentOptions(preset="strong"), draws(20000), SHAPE)
    shares = {name: (~strong[name].isnan()).float().mean().item() for name in INTENSITY}
    expected = {
        "noise": 0.1, "blur": 0.1, "brightness": 0.15, "contrast": 0.15, "low_resolution": 0.125,
        "gamma_inverted": 0.1, "gamma": 0.3,
    }  # fmt: skip
    assert shares == pytest.approx(expected, abs=0.01)
    assert (strong["angle"] != 0).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert (strong["scale"] != 1).float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert strong["flip"].float().mean(0).tolist() == pytest.approx([0.5, 0.5], abs=0.01)
    gamma = strong["gamma"][~strong["gamma"].isnan()]
    assert (gamma < 1).float().mean().item() == pytest.approx(0.5, abs=0.02)
    assert (gamma.min().item(), gamma.max().item()) == pytest.approx((0.7, 1.5), abs=0.01)
    both = draw_view(AugmentOptions(preset="unimatch_strong"), draws(20000), SHAPE)
    assert torch.equal(both["brightness"].isnan(), both["contrast"].isnan())
    assert both["brightness"].isnan().float().mean().item() == pytest.approx(0.2, abs=0.01)
    assert not torch.equal(both["brightness"], both["contrast"])
    assert set(both) == {"brightness", "contrast", "blur"}  # nothing that moves a pixel


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rotate": 1.5}, "less than or equal to 1"),
        ({"scale_range": (0, 1)}, "scale_range is .* above 0"),
        ({"gamma_range": (2, 1)}, "gamma_range is .* must not exceed"),
        ({"noise_range": (-1, 1)}, "noise_range is .* below 0"),
        ({"low_resolution_range": (0.5, 2)}, "a zoom must not exceed 1"),
        ({"rotation_degrees": (float("nan"), 1)}, "finite"),
        ({"preset": "bcp", "rotation_degrees": (-0.5, 20)}, "whole numbers"),
        ({"preset": "bcp", "rotation_degrees": (5, 5)}, "whole numbers"),
        ({"rotation": 3}, "Extra inputs"),
        ({"preset": "x"}, "'none', 'bcp'"),
    ],
)
def test_bad_options(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        AugmentOptions(**wrong)


def test_every_problem_of_the_options_is_named() -> None:
    with pytest.raises(ValidationError, match=r"scale_range.*blur_range"):
        AugmentOptions(scale_range=(0, 1), blur_range=(0, 1))


def test_a_preset_can_be_changed_and_written_down() -> None:
    options = AugmentOptions(preset="strong", flip=0.0)
    assert (options.flip, options.gamma) == (0.0, 0.3)
    assert AugmentOptions(**options.model_dump()) == options
