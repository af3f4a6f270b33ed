"""Invariant 15 of the BCP card: the component rules, against a flood fill written out by hand."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import ndimage

from medkd.data import components
from medkd.data.components import NEIGHBOURS, _largest_on_cpu, _largest_on_device, largest_component

CASES = [(dims, connectivity) for dims, table in NEIGHBOURS.items() for connectivity in table]
SHAPES = {2: (8, 8), 3: (4, 5, 6)}


def flood_fill(label: np.ndarray, classes: int, axes: int) -> np.ndarray:
    """The largest component of each class of one image; ties to the one met first in raster order."""
    offsets = [o for o in itertools.product((-1, 0, 1), repeat=label.ndim) if 0 < sum(map(abs, o)) <= axes]
    out = np.zeros_like(label)
    for c in range(1, classes):
        seen: set[tuple[int, ...]] = set()
        best: list[tuple[int, ...]] = []
        for start in map(tuple, np.argwhere(label == c)):
            if start in seen:
                continue
            component, stack = [], [start]
            seen.add(start)
            while stack:
                voxel = stack.pop()
                component.append(voxel)
                for offset in offsets:
                    near = tuple(int(a + b) for a, b in zip(voxel, offset))
                    inside = all(0 <= n < s for n, s in zip(near, label.shape))
                    if inside and near not in seen and label[near] == c:
                        seen.add(near)
                        stack.append(near)
            if len(component) > len(best):
                best = component
        for voxel in best:
            out[voxel] = c
    return out


def random_labels(dims: int, seed: int) -> torch.Tensor:
    return torch.randint(0, 4, (5, *SHAPES[dims]), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("dims", "connectivity"), CASES)
def test_equals_a_flood_fill(dims: int, connectivity: int) -> None:
    for seed in range(10):
        labels = random_labels(dims, seed)
        expected = np.stack([flood_fill(i, 4, NEIGHBOURS[dims][connectivity]) for i in labels.numpy()])
        assert np.array_equal(largest_component(labels, 4, connectivity).numpy(), expected)


@pytest.mark.parametrize(("dims", "connectivity"), CASES)
def test_the_path_for_gpus_equals_the_one_for_cpus(dims: int, connectivity: int) -> None:
    axes = NEIGHBOURS[dims][connectivity]
    g = torch.Generator().manual_seed(0)
    coarse = torch.randn(2, 4, *[6] * dims, generator=g)
    smooth = torch.nn.functional.interpolate(coarse, scale_factor=5, mode="bilinear" if dims == 2 else "trilinear")
    blobs = (smooth + 0.3 * torch.randn(smooth.shape, generator=g)).argmax(1)
    for labels in [blobs, *(random_labels(dims, seed) for seed in range(20))]:
        assert torch.equal(_largest_on_device(labels, 4, axes), _largest_on_cpu(labels, 4, axes))


def zigzag(side: int) -> np.ndarray:
    snake = np.zeros((side, side), np.int64)
    snake[::2] = 1
    snake[1::4, -1] = 1
    snake[3::4, 0] = 1
    return snake


def spiral(side: int) -> np.ndarray:
    """A path of width one from a corner to the centre: ring k, open at its start, ends in the next ring."""
    snake = np.zeros((side, side), np.int64)
    for k in range(0, side // 2, 2):
        snake[k, k : side - k] = snake[k : side - k, side - 1 - k] = snake[side - 1 - k, k : side - k] = 1
        snake[k + 2 : side - k, k] = 1
        snake[k + 2, k : k + 2] = 1
    return snake


@pytest.mark.parametrize("turns", range(4))
@pytest.mark.parametrize("shape", [zigzag, spiral])
def test_a_long_snake_is_one_component_after_few_rounds(
    shape: Callable[[int], np.ndarray], turns: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neighbour by neighbour it would take as many rounds as the snake has pixels: over 3000."""
    rounds = []
    one_round = components._neighbours_maximum
    monkeypatch.setattr(components, "_neighbours_maximum", lambda *a: rounds.append(1) or one_round(*a))
    snake = np.rot90(shape(81), turns)
    assert snake.sum() > 3000
    assert ndimage.label(snake)[1] == 1
    labels = torch.from_numpy(snake.copy())[None]
    assert torch.equal(_largest_on_device(labels, 2, 1), labels == 1)
    assert torch.equal(_largest_on_cpu(labels, 2, 1), labels == 1)
    assert len(rounds) <= 20


@pytest.mark.parametrize("dims", [2, 3])
def test_idempotent_subset_one_component_and_dtype(dims: int) -> None:
    labels = random_labels(dims, 3).to(torch.uint8)
    once = largest_component(labels, 4)
    assert once.dtype == torch.uint8
    assert torch.equal(largest_component(once, 4), once)
    assert ((once == labels) | (once == 0)).all()


def test_classes_do_not_interact_and_an_absent_class_stays_absent() -> None:
    labels = random_labels(2, 1)
    labels[labels == 2] = 0
    whole = largest_component(labels, 4)
    assert not (whole == 2).any()
    for c in (1, 3):
        alone = largest_component(torch.where(labels == c, c, 0), 4)
        assert torch.equal(alone == c, whole == c)


def test_images_do_not_interact() -> None:
    labels = random_labels(2, 2)
    one_by_one = torch.cat([largest_component(image[None], 4) for image in labels])
    assert torch.equal(largest_component(labels, 4), one_by_one)


def test_diagonal_pixels() -> None:
    labels = torch.tensor([[[1, 0], [0, 1]]])
    assert torch.equal(largest_component(labels, 2, 8), labels)
    assert torch.equal(largest_component(labels, 2, 4), torch.tensor([[[1, 0], [0, 0]]]))


@pytest.mark.parametrize("find", [_largest_on_cpu, _largest_on_device])
def test_the_first_of_equals_in_raster_order_stays(find: Callable[..., torch.Tensor]) -> None:
    """Three of two pixels each, the single one before them does not count; image 1 the same upside down."""
    image = [[0, 1, 0, 0, 0], [0, 0, 0, 1, 1], [1, 0, 0, 0, 0], [1, 0, 1, 1, 0]]
    labels = torch.tensor([image, image[::-1]])
    expected = torch.zeros_like(labels)
    expected[0, 1, 3:] = 1
    expected[1, :2, 0] = 1
    assert torch.equal(find(labels, 2, 1), expected == 1)


@pytest.mark.parametrize("find", [_largest_on_cpu, _largest_on_device])
def test_labels_without_foreground(find: Callable[..., torch.Tensor]) -> None:
    empty = torch.zeros(2, 4, 4, dtype=torch.int64)
    assert not find(empty, 3, 1).any()
    assert not largest_component(empty, 3).any()
    assert not largest_component(torch.full_like(empty, 255), 3).any()  # no class of these


def test_connectivity_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"connectivity is 6 for 2-D images; allowed: \[4, 8\]"):
        largest_component(torch.zeros(1, 4, 4, dtype=torch.int64), 2, 6)


def test_a_class_is_needed() -> None:
    with pytest.raises(ValueError, match="num_classes is 1"):
        largest_component(torch.zeros(1, 4, 4, dtype=torch.int64), 1)
