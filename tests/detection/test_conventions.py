"""Properties of the conversions between the libraries: there and back, for any class count, box and image."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from monai.data.box_utils import box_area
from torch import Tensor
from torchvision.ops import box_area as box_area_xy

from medkd.detection.detectors.conventions import (
    along_axes,
    detectron2_images,
    from_torchvision_columns,
    torchvision_ids,
)
from medkd.errors import InputError

SEEDS = st.integers(0, 2**31)


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@given(st.integers(1, 90))
def test_class_ids_are_shifted_by_one_and_the_background_goes_from_last_to_first(classes: int) -> None:
    ids = torchvision_ids(torch.arange(classes + 1), classes)
    assert ids.tolist() == [*range(1, classes + 1), 0]
    columns = torch.zeros(classes + 1, classes + 1)
    columns[torch.arange(classes + 1), ids] = 1.0  # row k: what torchvision says of class k
    assert torch.equal(from_torchvision_columns(columns), torch.eye(classes + 1))


@given(SEEDS, st.integers(1, 9), st.integers(0, 5))
def test_probabilities_keep_their_sum_and_their_class(seed: int, classes: int, rows: int) -> None:
    theirs = drawn(seed, rows, classes + 1).softmax(1)
    mine = from_torchvision_columns(theirs)
    assert torch.equal(mine.sort(1).values, theirs.sort(1).values)
    assert torch.equal(torchvision_ids(mine.argmax(1), classes), theirs.argmax(1))


@given(SEEDS, st.sampled_from([2, 3]), st.integers(0, 6))
def test_boxes_along_the_axes_are_the_same_places(seed: int, dims: int, count: int) -> None:
    low, size = 40 * drawn(seed, count, dims), 1 + 20 * drawn(seed + 1, count, dims)
    boxes = torch.cat([low, low + size], 1)
    theirs = along_axes(boxes)
    assert torch.equal(along_axes(theirs), boxes)
    torch.testing.assert_close(box_area(theirs), size.prod(1))
    if dims == 2:
        torch.testing.assert_close(box_area_xy(theirs), size.prod(1))
    picture = torch.zeros(64, 64, 64)[..., : 64 if dims == 3 else 1].squeeze(-1)
    for mine, other in zip(boxes.round().long(), theirs.round().long()):
        picture.zero_()
        region = [slice(int(a), int(b)) for a, b in zip(mine[:dims], mine[dims:])]
        picture[tuple(region[::-1] if dims == 2 else region)] = 1.0  # medkd in 2-D: x is the last axis
        cut = picture[tuple(slice(int(a), int(b)) for a, b in zip(other[:dims], other[dims:]))]
        assert cut.sum() == picture.sum() == cut.numel()


def test_the_boxes_of_the_card() -> None:
    assert along_axes(torch.tensor([[10, 20, 30, 60]])).tolist() == [[20, 10, 60, 30]]
    assert along_axes(torch.tensor([[1, 2, 3, 4, 5, 6]])).tolist() == [[1, 2, 3, 4, 5, 6]]


@given(SEEDS, st.integers(1, 3), st.sampled_from([1, 2, 3, 4]), st.sampled_from(["BGR", "RGB"]))
def test_images_are_scaled_and_three_channels_put_in_order(seed: int, count: int, channels: int, order: str) -> None:
    images = drawn(seed, count, channels, 3, 5)
    before = images.clone()
    theirs = detectron2_images(images, channels, order)
    back = (theirs.flip(1) if order == "BGR" and channels == 3 else theirs) / 255
    torch.testing.assert_close(back, images, atol=1e-6, rtol=0)
    if channels == 3:
        torch.testing.assert_close(theirs[:, 0], 255 * images[:, 2 if order == "BGR" else 0])
    assert torch.equal(images, before)


@given(SEEDS, st.integers(1, 4))
def test_one_channel_is_repeated_and_others_are_refused(seed: int, channels: int) -> None:
    grey = drawn(seed, 2, 1, 4, 4)
    assert torch.equal(detectron2_images(grey, channels, "BGR"), 255 * grey.expand(2, channels, 4, 4))
    with pytest.raises(InputError, match="an image has 5 channels"):
        detectron2_images(drawn(seed, 1, 5, 4, 4), channels, "BGR")
