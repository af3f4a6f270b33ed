from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medkd.data.arrays import TrainingArrays
from medkd.data.augment_options import AugmentOptions
from medkd.data.dataset import Case
from medkd.data.streams import ArrayStream


def case(name: str, labelled: bool) -> Case:
    return Case(name, name, "train", labelled, (Path(f"{name}.nii.gz"),), None, None, (8, 8, 4))


def arrays(shapes: list[tuple[int, ...]], labelled: list[bool], classes: int = 3) -> TrainingArrays:
    """Images whose every pixel equals its label times 0.25, plus the sample number."""
    rng = np.random.default_rng(0)
    labels = [rng.integers(classes, size=shape).astype(np.uint8) for shape in shapes]
    images = [label * 0.25 + number for number, label in enumerate(labels)]
    sizes = [label.size for label in labels]
    return TrainingArrays(
        tuple(case(f"c{i}", flag) for i, flag in enumerate(labelled)),
        1,
        np.concatenate([i.ravel() for i in images]).astype(np.float16),
        np.concatenate([label.ravel() for label in labels]),
        np.arange(len(shapes)),
        np.cumsum([0, *sizes[:-1]]),
        np.array(shapes),
        np.array([[bool((label == k).any()) for k in range(classes)] for label in labels]),
    )


def stream(data: TrainingArrays, patch: tuple[int, ...], labelled: bool = True, **values: object) -> ArrayStream:
    options = {"size": 4, "augment": AugmentOptions(preset="none"), "seed": 0, "device": torch.device("cpu")} | values
    return ArrayStream(data, "labelled" if labelled else "unlabelled", labelled, patch=patch, **options)


@pytest.mark.parametrize("patch", [(8, 8), (5, 6), (12, 9)])
def test_image_and_label_are_cropped_and_padded_alike(patch: tuple[int, int]) -> None:
    batch = stream(arrays([(8, 8)] * 3, [True] * 3), patch).batch(0)
    assert batch.image.shape == (4, 1, *patch)
    assert batch.labels.shape == (4, *patch)
    for row, name in enumerate(batch.case_ids):
        number = int(name[1:])
        inside = torch.zeros(patch, dtype=torch.bool)
        inside[: min(8, patch[0]), : min(8, patch[1])] = True
        expected = torch.where(inside, batch.labels[row] * 0.25 + number, 0.0)
        torch.testing.assert_close(batch.image[row, 0], expected)


def test_streams_keep_to_their_cases_and_unlabelled_has_no_label() -> None:
    data = arrays([(8, 8)] * 6, [True, False, True, False, False, False])
    for step in range(5):
        assert set(stream(data, (8, 8)).batch(step).case_ids) <= {"c0", "c2"}
        unlabelled = stream(data, (8, 8), labelled=False).batch(step)
        assert set(unlabelled.case_ids) <= {"c1", "c3", "c4", "c5"}
        assert unlabelled.label is None


def test_a_batch_is_a_function_of_the_step() -> None:
    data = arrays([(9, 9)] * 5, [True] * 5)
    one = stream(data, (6, 6), augment=AugmentOptions(preset="strong"))
    other = stream(data, (6, 6), augment=AugmentOptions(preset="strong"))
    for step in (7, 2):
        a, b = one.batch(step), other.batch(step)
        assert torch.equal(a.image, b.image)
        assert torch.equal(a.labels, b.labels)
    assert not torch.equal(one.batch(1).image, one.batch(2).image)


def test_crops_reach_every_corner() -> None:
    data = arrays([(8, 8)], [True])
    data.images[:] = np.arange(64, dtype=np.float16)
    corners = {float(image[0, 0, 0]) for step in range(60) for image in stream(data, (6, 6)).batch(step).image}
    assert corners == {float(8 * y + x) for y in range(3) for x in range(3)}


def test_foreground_share_is_centred_on_foreground() -> None:
    data = arrays([(20, 20)] * 4, [True] * 4)
    data.labels[:] = 0
    data.present[:] = [True, False, False]
    data.labels.reshape(4, 20, 20)[2, 15, 4] = 2  # one voxel of class 2 in sample 2
    data.present[2, 2] = True
    for step in range(8):
        batch = stream(data, (5, 5), foreground=0.5).batch(step)
        assert batch.case_ids[2:] == ("c2", "c2")
        assert (batch.labels[2:, 2, 2] == 2).all()


def test_micro_batches_are_the_rows_of_the_batch() -> None:
    batch = stream(arrays([(8, 8)] * 3, [True] * 3), (8, 8)).batch(3)
    parts = [batch.micro(i, 2) for i in range(2)]
    assert torch.equal(torch.cat([p.image for p in parts]), batch.image)
    whole = batch.draws.uniform("x", 2)
    assert torch.equal(torch.cat([p.draws.uniform("x", 2) for p in parts]), whole)
    noise = batch.draws.normal("n", batch.image)
    assert torch.equal(torch.cat([p.draws.normal("n", p.image) for p in parts]), noise)
    with pytest.raises(ValueError, match="equal micro-batches"):
        batch.micro(0, 3)


def test_three_dimensions() -> None:
    batch = stream(arrays([(8, 9, 7), (5, 9, 7)], [True, True]), (6, 6, 8)).batch(0)
    assert batch.image.shape == (4, 1, 6, 6, 8)
