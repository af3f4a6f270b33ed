"""Invariant 15 of the BCP card: the component rules, against a flood fill written out by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

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
    for seed in range(20):
        mask = random_labels(dims, seed) > 1
        assert torch.equal(_largest_on_device(mask, axes), _largest_on_cpu(mask, axes))
    blobs = torch.rand(2, 1, *[6] * dims, generator=torch.Generator().manual_seed(0))
    large = torch.nn.functional.interpolate(blobs, scale_factor=5)[:, 0] > 0.5
    assert torch.equal(_largest_on_device(large, axes), _largest_on_cpu(large, axes))


def test_a_snake_is_one_component() -> None:
    """The longest path in an image: propagation by neighbours alone would need a round a pixel."""
    mask = torch.zeros(1, 41, 41, dtype=torch.bool)
    mask[0, ::2] = True
    mask[0, 1::4, -1] = True
    mask[0, 3::4, 0] = True
    assert torch.equal(_largest_on_device(mask, 1), mask)
    assert torch.equal(_largest_on_cpu(mask, 1), mask)


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


def test_diagonal_pixels_and_the_tie_rule() -> None:
    labels = torch.tensor([[[1, 0], [0, 1]]])
    assert torch.equal(largest_component(labels, 2, 8), labels)
    assert torch.equal(largest_component(labels, 2, 4), torch.tensor([[[1, 0], [0, 0]]]))


def test_an_empty_batch_of_labels() -> None:
    assert not largest_component(torch.zeros(2, 4, 4, dtype=torch.int64), 3).any()


def test_connectivity_that_does_not_exist() -> None:
    with pytest.raises(ValueError, match=r"connectivity is 6 for 2-D images; allowed: \[4, 8\]"):
        largest_component(torch.zeros(1, 4, 4, dtype=torch.int64), 2, 6)
