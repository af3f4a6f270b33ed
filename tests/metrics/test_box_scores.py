"""AP of boxes: hand values, COCO's own evaluation, and the same definition in 3-D."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.errors import InputError
from medkd.metrics.boxes import IOUS, _resampled, average_precision, box_scores
from medkd.metrics.matching import ImageBoxes, box_iou, image_boxes, match


def random_images(seed: int, number: int = 12, classes: int = 3) -> list[ImageBoxes]:
    """Integer corners and scores of two digits: ties of score and of overlap occur."""
    rng = np.random.default_rng(seed)
    images = []
    for i in range(number):
        low = rng.integers(0, 40, (rng.integers(0, 7), 2))
        truth = np.concatenate([low, low + rng.integers(4, 20, low.shape)], 1)
        copies = np.repeat(truth, rng.integers(0, 4, len(truth)), 0)
        boxes = copies + rng.integers(-2, 3, copies.shape)
        boxes[:, 2:] = np.maximum(boxes[:, 2:], boxes[:, :2] + 1)
        labels = rng.integers(0, classes, len(truth))
        scores = rng.integers(0, 100, len(boxes)) / 100
        images.append(
            image_boxes(f"i{i}", f"p{i // 2}", truth, labels, boxes, rng.integers(0, classes, len(boxes)), scores)
        )
    return images


def test_hand_value() -> None:
    """Two true boxes; .9 hits, .8 misses, .7 hits: precision 1 up to recall .5, then 2/3: (51 + 50 * 2/3) / 101."""
    image = image_boxes(
        "a", "a", [[0, 0, 10, 10], [20, 20, 30, 30]], [0, 0],
        [[0, 0, 10, 10], [50, 50, 60, 60], [20, 20, 30, 30]], [0, 0, 0], [0.9, 0.8, 0.7],
    )  # fmt: skip
    scores = box_scores([image], ["lesion"], "image", resamples=10)
    assert scores.at[0.5].value == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-12)
    assert scores.ap.value == pytest.approx(scores.at[0.95].value)
    assert scores.classes["lesion"].boxes == 2


@given(st.integers(0, 10_000))
@settings(max_examples=25, deadline=None)
def test_own_matching_equals_coco(seed: int) -> None:
    """faster-coco-eval gives the values in 2-D; what 3-D and the intervals use must be the same to rounding."""
    images = random_images(seed)
    once = np.ones((1, len(images)))
    own = np.stack([_resampled(images, label, IOUS, once)[0] for label in range(3)], -1)
    np.testing.assert_allclose(own, average_precision(images, 3), atol=1e-12)


def test_equals_pycocotools() -> None:
    """The reference implementation of COCO itself, where it is installed."""
    coco = pytest.importorskip("pycocotools.coco", reason="pycocotools is not installed")
    from pycocotools.cocoeval import COCOeval

    images = random_images(3, number=40)
    truth = [(n, b, k) for n, one in enumerate(images, 1) for b, k in zip(one.truth, one.truth_labels)]
    found = [(n, b, k, s) for n, one in enumerate(images, 1) for b, k, s in zip(one.boxes, one.labels, one.scores)]
    data = coco.COCO()
    data.dataset = {
        "images": [{"id": n} for n in range(1, len(images) + 1)],
        "annotations": [
            {"id": i, "image_id": n, "category_id": int(k) + 1, "iscrowd": 0, "area": 1.0, "bbox": _xywh(b)}
            for i, (n, b, k) in enumerate(truth, 1)
        ],
        "categories": [{"id": k, "name": str(k)} for k in (1, 2, 3)],
    }
    data.createIndex()
    results = data.loadRes(
        [{"image_id": n, "category_id": int(k) + 1, "bbox": _xywh(b), "score": float(s)} for n, b, k, s in found]
    )
    run = COCOeval(data, results, "bbox")
    run.evaluate()
    run.accumulate()
    precision = run.eval["precision"][:, :, :, 0, -1]
    np.testing.assert_allclose(average_precision(images, 3), precision.mean(1), atol=1e-12)


def _xywh(box: np.ndarray) -> list[float]:
    return [float(v) for v in (*box[:2], *(box[2:] - box[:2]))]


def test_a_flat_box_in_3d_scores_as_in_2d() -> None:
    """Every box one voxel thick at one depth: the overlap, and so everything, is that of 2-D."""
    flat = random_images(5)
    deep = [
        image_boxes(
            one.image, one.unit, *(_thick(b) if b.ndim == 2 else b for b in (one.truth, one.truth_labels)),
            _thick(one.boxes), one.labels, one.scores, dims=3,
        )
        for one in flat
    ]  # fmt: skip
    np.testing.assert_allclose(average_precision(deep, 3), average_precision(flat, 3), atol=1e-12)


def _thick(boxes: np.ndarray) -> np.ndarray:
    depth = np.zeros((len(boxes), 1))
    return np.concatenate([boxes[:, :2], depth, boxes[:, 2:], depth + 1], 1)


def test_iou_in_3d() -> None:
    """Two cubes of 2 x 2 x 2 that share 1 x 2 x 2: 4 / 12."""
    a, b = np.array([[0.0, 0, 0, 2, 2, 2]]), np.array([[1.0, 0, 0, 3, 2, 2]])
    assert box_iou(a, b)[0, 0] == pytest.approx(4 / 12)


def test_a_true_box_is_found_once() -> None:
    hits = match(np.array([[0.9], [0.95]]), np.array([0.5]))
    assert hits.tolist() == [[True, False]]


def test_intervals_draw_units() -> None:
    """All images of one patient: every resample is the test set itself. One unit an image: they vary."""
    images = random_images(1)
    together = [image_boxes(i.image, "p", i.truth, i.truth_labels, i.boxes, i.labels, i.scores) for i in images]
    one = box_scores(together, ["a", "b", "c"], "patient", resamples=50)
    assert one.units == 1
    assert one.ap.low == pytest.approx(one.ap.value)
    assert one.ap.high == pytest.approx(one.ap.value)
    many = box_scores(images, ["a", "b", "c"], "patient", resamples=200)
    assert many.units == 6
    assert many.ap.low < many.ap.value < many.ap.high
    assert many.ap.value == one.ap.value


def test_classes_without_a_true_box_are_undefined() -> None:
    image = image_boxes("a", "a", [[0, 0, 4, 4]], [0], [[0, 0, 4, 4], [0, 0, 4, 4]], [0, 1], [0.9, 0.9])
    scores = box_scores([image], ["there", "absent"], "image", resamples=5)
    assert scores.ap.value == 1
    assert np.isnan(scores.classes["absent"].ap.value)
    assert scores.classes["absent"].boxes == 0


def test_nothing_predicted_is_zero() -> None:
    image = image_boxes("a", "a", [[0, 0, 4, 4]], [0], [], [], [])
    assert box_scores([image], ["lesion"], "image", resamples=5).ap.value == 0


def test_every_problem_at_once() -> None:
    bad = image_boxes("a", "a", [[4, 0, 4, 4]], [0], [[0, 0, 4, 4]], [3], [np.nan])
    with pytest.raises(InputError) as error:
        box_scores([bad, bad], ["lesion"], "image")
    text = str(error.value)
    assert len(error.value.problems) == 7
    for part in ("no size", "allowed: 0 to 0", "finite score", "given twice"):
        assert part in text
