"""Views: boxes lie on the pixels they were drawn on, the matrix leads back, and a batch depends on the step alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from medkd.data.augment2d import draw_geometry, views
from medkd.data.augment_volumes import volume_views
from medkd.data.box_geometry import clip_boxes, map_boxes, unmap_boxes
from medkd.data.detection_dataset import Boxes, DetectionDataset
from medkd.data.detection_options import DetectionAugment
from medkd.data.detection_streams import DetectionStream
from medkd.data.image_arrays import ImageArrays, image_arrays
from medkd.data.image_cases import ImageCase
from medkd.data.image_files import png_bytes
from medkd.data.image_options import ImagePreprocess
from medkd.data.image_preprocess import as_float, prepare_image
from medkd.errors import InputError

WILD = DetectionAugment(flip=(0.5, 0.5), turn=0.5, scale=(0.7, 1.4), shift=0.1)


def test_flip_of_an_expert_box() -> None:
    """Card item 14: x in [10, 30] of an image 100 wide is [70, 90] after a flip."""
    options = DetectionAugment(flip=(1.0, 0.0))
    matrix = torch.from_numpy(draw_geometry(np.random.default_rng(0), (80, 100), options))
    assert map_boxes(torch.tensor([[10.0, 5, 30, 8]]), matrix).tolist() == [[70, 5, 90, 8]]


@pytest.mark.parametrize("seed", range(8))
def test_round_trip(seed: int) -> None:
    """Card item 14: original -> resized -> view -> original is the identity within 1e-3, at mammography sizes."""
    pixels, resize = prepare_image(np.zeros((5000, 3700), np.uint8), ImagePreprocess(size=(600, 600)))
    assert pixels.shape == (1, 600, 600)
    view = torch.from_numpy(draw_geometry(np.random.default_rng(seed), (600, 600), WILD))
    low = torch.rand(50, 2, generator=torch.Generator().manual_seed(seed)) * 3000
    boxes = torch.cat([low, low + 200], 1)
    matrix = view @ resize
    back = unmap_boxes(map_boxes(boxes, matrix), matrix)
    assert (back - boxes).abs().max() < 1e-3


@pytest.mark.parametrize("seed", range(12))
def test_boxes_lie_on_their_pixels(seed: int) -> None:
    """A bright rectangle in a dark image: its mapped box holds the bright pixels, to half a pixel and OpenCV's 1/32."""
    image = np.zeros((96, 96, 1), np.uint8)
    image[30:50, 20:60] = 255
    view = views(image, seed, WILD)
    box = map_boxes(torch.tensor([[20.0, 30, 60, 50]]), view.matrix)
    box = clip_boxes(box, (96, 96))[0][0].numpy()
    bright = np.argwhere(view.weak[..., 0] > 0.5)
    found = [*bright.min(0)[::-1], *(bright.max(0)[::-1] + 1)]
    assert np.abs(np.array(found) - box).max() <= 0.5 + 1 / 32
    assert view.weak.sum() == pytest.approx((box[2] - box[0]) * (box[3] - box[1]), rel=0.02)  # to parts of a pixel


def test_strong_and_weak_show_the_same_place() -> None:
    """Without colours, blur and erasing the strong view is the weak one."""
    plain = WILD.model_copy(update={"colour": 0.0, "grey": 0.0, "blur": 0.0, "erase": ()})
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    for seed in range(4):
        same, other = views(image, seed, plain), views(image, seed, WILD)
        np.testing.assert_array_equal(same.weak, same.strong)
        np.testing.assert_array_equal(same.weak, other.weak)
    assert any((views(image, s, WILD).weak != views(image, s, WILD).strong).any() for s in range(4))


def test_views_are_a_function_of_the_seed() -> None:
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    first = views(image, 5, WILD)
    views(image, 6, WILD)
    again = views(image, 5, WILD)
    np.testing.assert_array_equal(first.strong, again.strong)
    assert first.strong.dtype == np.float32
    assert 0 <= first.strong.min() <= first.strong.max() <= 1


def test_turns_need_squares() -> None:
    with pytest.raises(InputError, match="turn: 0"):
        draw_geometry(np.random.default_rng(0), (60, 80), DetectionAugment(turn=1.0))


def test_volumes() -> None:
    """3-D: a bright block and its box are flipped alike."""
    volume = np.zeros((16, 20, 24), np.uint16)
    volume[2:6, 3:9, 4:12] = 40000
    quiet = DetectionAugment(flip=(1.0, 0.0, 1.0), erase=())
    view = volume_views(volume, 0, quiet)
    box = map_boxes(torch.tensor([[2.0, 3, 4, 6, 9, 12]]), view.matrix)[0]
    bright = np.argwhere(view.weak > 0.3)
    np.testing.assert_array_equal(box.numpy(), [*bright.min(0), *(bright.max(0) + 1)])
    assert view.strong.shape == volume.shape


def test_boxes_that_leave_the_view() -> None:
    boxes = torch.tensor([[0.0, 0, 10, 10], [-8, 0, 2, 10], [-10, 0, 0, 10], [95, 0, 105, 10]])
    cut, kept = clip_boxes(boxes, (50, 100), 0.3)
    assert kept.tolist() == [True, False, False, True]
    assert cut[3].tolist() == [95, 0, 100, 10]


def test_intensities() -> None:
    """8 bits stay as they are to the last bit; 16 bits and windows span [0, 1]; percentiles leave the dark outside."""
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    same, matrix = prepare_image(picture, ImagePreprocess(size=(16, 16)))
    np.testing.assert_array_equal(same[0], picture)
    assert torch.equal(matrix, torch.eye(3, dtype=torch.float64))
    film = np.zeros((16, 16), np.uint16)
    film[4:12, 4:12] = np.linspace(2000, 4000, 64).reshape(8, 8).astype(np.uint16)
    scaled = as_float(prepare_image(film, ImagePreprocess(size=(16, 16), intensity="percentile"))[0][0])
    assert scaled[0, 0] == 0
    assert scaled[4, 4] == pytest.approx(0, abs=1e-3)
    assert scaled[11, 11] == pytest.approx(1)
    ct = np.array([[-2000, -1000], [-300, 400]], np.int16)
    window = as_float(prepare_image(ct, ImagePreprocess(size=(2, 2), intensity="window"))[0][0])
    np.testing.assert_allclose(window, [[0, 0], [0.5, 1]], atol=1e-4)
    with pytest.raises(InputError, match="8 or 16 bits"):
        prepare_image(ct, ImagePreprocess(size=(2, 2)))


def test_sizes() -> None:
    """One factor and padding, or each axis by itself; x first in the matrix."""
    image = np.full((40, 100), 255, np.uint8)
    padded, one = prepare_image(image, ImagePreprocess(size=(50, 50)))
    assert one.diagonal().tolist() == [0.5, 0.5, 1]
    assert padded[0, :20].min() == 255
    assert padded[0, 20:].max() == 0
    filled, each = prepare_image(image, ImagePreprocess(size=(50, 50), keep_aspect=False))
    assert each.diagonal().tolist() == [0.5, 1.25, 1]
    assert filled.min() == 255


@pytest.fixture
def dataset(tmp_path: Path) -> DetectionDataset:
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    cases, truth = [], {}
    for number in range(6):
        path = tmp_path / "images" / f"c{number}.png"
        path.write_bytes(png_bytes(rng.integers(0, 255, (40, 60, 3), dtype=np.uint8)))
        cases.append(ImageCase(f"c{number}", f"p{number}", "train", True, path, None, (40, 60)))
        truth[f"c{number}"] = Boxes(np.array([[5, 5, 25, 30]], np.float32), np.array([number % 2]))
    return DetectionDataset(tmp_path, ("red", "green", "blue"), ("a", "b"), "patient", tuple(cases), truth)


def arrays_of(dataset: DetectionDataset) -> ImageArrays:
    return image_arrays(dataset.root, dataset.cases, ImagePreprocess(size=(48, 48)))


def test_a_batch_depends_on_the_step_alone(dataset: DetectionDataset) -> None:
    stream = DetectionStream(arrays_of(dataset), "labelled", 4, WILD, 0, torch.device("cpu"), dataset)
    first = stream.batch(7)
    stream.batch(8)
    again = DetectionStream(arrays_of(dataset), "labelled", 4, WILD, 0, torch.device("cpu"), dataset).batch(7)
    assert torch.equal(first.view["strong"], again.view["strong"])
    assert first.case_ids == again.case_ids
    assert first.image.shape == first.view["strong"].shape == (4, 3, 48, 48)
    assert not torch.equal(first.image, stream.batch(8).image)


def test_ranks_share_a_batch(dataset: DetectionDataset) -> None:
    whole = DetectionStream(arrays_of(dataset), "labelled", 4, WILD, 0, torch.device("cpu"), dataset).batch(2)
    parts = [
        DetectionStream(arrays_of(dataset), "labelled", 4, WILD, 0, torch.device("cpu"), dataset, rank, 2).batch(2)
        for rank in (0, 1)
    ]
    assert torch.equal(torch.cat([p.view["strong"] for p in parts]), whole.view["strong"])
    assert parts[0].case_ids + parts[1].case_ids == whole.case_ids


def test_targets_are_the_boxes_of_the_view(dataset: DetectionDataset) -> None:
    """Joined by id: each Target is the truth of its own case under its own matrix."""
    batch = DetectionStream(arrays_of(dataset), "labelled", 6, WILD, 3, torch.device("cpu"), dataset).batch(0)
    assert batch.label is not None
    for target, name, matrix in zip(batch.label, batch.case_ids, batch.view["matrix"]):
        truth = dataset.boxes[name]
        mapped = clip_boxes(map_boxes(torch.from_numpy(truth.boxes), matrix), (48, 48))[0]
        assert torch.equal(target.boxes, mapped[: len(target)])  # type: ignore[attr-defined, arg-type]
        assert set(target.labels.tolist()) <= set(truth.labels.tolist())  # type: ignore[attr-defined]
    assert sum(len(t) for t in batch.label) >= 4
