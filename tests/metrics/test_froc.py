"""FROC: the example of card 4.3, and its invariants (card section 6, item 18)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from medkd.errors import InputError
from medkd.metrics.froc import HitRule, best_threshold, centre_errors, froc, image_auc, lesion_f1
from medkd.metrics.matching import ImageBoxes, image_boxes

LESION = [0, 0, 10, 10]
OTHER = [40, 40, 50, 50]
ELSEWHERE = [80, 80, 90, 90]


def example() -> list[ImageBoxes]:
    """4 images, 3 lesions: A .9 hit, C .85 false, A .8 false, B .7 hit, B .6 the same lesion again; D silent."""
    return [
        image_boxes("A", "A", [LESION], [0], [LESION, ELSEWHERE], [0, 0], [0.9, 0.8]),
        image_boxes("B", "B", [LESION, OTHER], [0, 0], [LESION, LESION], [0, 0], [0.7, 0.6]),
        image_boxes("C", "C", [], [], [ELSEWHERE], [0], [0.85]),
        image_boxes("D", "D", [], [], [], [], []),
    ]


@pytest.mark.parametrize("kind", ["iou", "pred_center_in_gt", "gt_center_in_pred"])
def test_the_example_of_the_card(kind: str) -> None:
    found = froc(example(), ["lesion"], HitRule(kind), "image", resamples=200)  # type: ignore[arg-type]
    assert [round(found.at[level].value, 6) for level in (0.05, 0.3, 0.5, 1.0)] == [
        0.333333,
        0.333333,
        0.666667,
        0.666667,
    ]
    assert found.most == (pytest.approx(2 / 3), pytest.approx(0.5))
    assert image_auc(example()) == 0.75
    assert (found.lesions, found.images, found.unit, found.units) == (3, 4, "image", 4)


def test_boxes_elsewhere_find_nothing() -> None:
    """The metric that this one replaces ignored where the box is."""
    moved = [replace(one, boxes=one.boxes + 1000) for one in example()]
    for kind in ("iou", "pred_center_in_gt", "gt_center_in_pred"):
        found = froc(moved, ["lesion"], HitRule(kind), "image", resamples=5)  # type: ignore[arg-type]
        assert found.most[0] == 0


def test_centre_errors_are_those_of_hits() -> None:
    assert centre_errors(example(), HitRule()).tolist() == [0.0, 0.0]
    moved = [replace(one, boxes=one.boxes + np.array([3.0, 0, 3, 0])) for one in example()]
    assert centre_errors(moved, HitRule("iou", 0.3)).tolist() == [3.0, 3.0]
    assert len(centre_errors(moved, HitRule("iou", 0.9))) == 0
    # the nearer of two lesions in one box is the one that is hit
    two = image_boxes("A", "A", [LESION, [0, 0, 10, 4]], [0, 0], [[0, 0, 10, 8]], [0], [0.5])
    assert centre_errors([two], HitRule("iou", 0.1)).tolist() == [1.0]


def test_silent_images_without_lesions_scale_false_alarms_only() -> None:
    silent = [image_boxes(f"E{i}", f"E{i}", [], [], [], [], []) for i in range(4)]
    before = froc(example(), ["lesion"], HitRule(), "image", resamples=5)
    after = froc(example() + silent, ["lesion"], HitRule(), "image", resamples=5)
    np.testing.assert_allclose(after.sensitivity, before.sensitivity)
    np.testing.assert_allclose(after.false_alarms, before.false_alarms / 2)


def test_sensitivity_never_falls_with_false_alarms() -> None:
    rng = np.random.default_rng(0)
    images = []
    for i in range(30):
        low = rng.uniform(0, 80, (5, 2))
        boxes = np.concatenate([low, low + 12], 1)
        images.append(image_boxes(str(i), str(i), boxes[:2], [0, 1], boxes + 2, rng.integers(0, 2, 5), rng.random(5)))
    levels = (0.1, 0.5, 1.0, 2.0, 5.0)
    found = froc(images, ["a", "b"], HitRule("iou", 0.3), "image", levels, resamples=20)
    values = [found.at[level].value for level in levels]
    assert values == sorted(values)
    assert (np.diff(found.sensitivity) >= 0).all()
    assert (np.diff(found.false_alarms) >= 0).all()
    assert 0 < values[-1] < 1  # classes are told apart: a box of the other class finds nothing


def test_a_perfect_detector_reaches_all_without_a_false_alarm() -> None:
    perfect = [
        replace(one, boxes=one.truth, labels=one.truth_labels, scores=np.ones(len(one.truth))) for one in example()
    ]
    found = froc(perfect, ["lesion"], HitRule(), "image", (0.0, 1.0), resamples=50)
    assert found.at[0.0].value == 1.0
    assert found.at[0.0].low == 1.0


def test_equal_scores_enter_together() -> None:
    """One hit and one false alarm of the same score: no operating point has the hit alone."""
    image = image_boxes("A", "A", [LESION], [0], [LESION, ELSEWHERE], [0, 0], [0.5, 0.5])
    found = froc([image], ["lesion"], HitRule(), "image", (0.0, 1.0), resamples=5)
    assert found.at[0.0].value == 0
    assert found.at[1.0].value == 1


def test_duplicates_as_false_alarms() -> None:
    found = froc(example(), ["lesion"], HitRule(duplicates="fp"), "image", resamples=5)
    assert found.most == (pytest.approx(2 / 3), pytest.approx(0.75))
    assert "duplicates" in found.rule


def test_one_prediction_finds_one_lesion() -> None:
    """A box over the whole image holds the centres of both lesions."""
    image = image_boxes("A", "A", [LESION, OTHER], [0, 0], [[0, 0, 100, 100]], [0], [0.9])
    assert froc([image], ["lesion"], HitRule("gt_center_in_pred"), "image", resamples=5).most[0] == 0.5


def test_f1_takes_its_threshold_from_other_images() -> None:
    """Of the example, from .7 on: 2 found, 2 false alarms, 1 missed: 4 / 7; from .9 on: 1, 0, 2: 2 / 4."""
    assert lesion_f1(example(), 0.7, HitRule()) == pytest.approx(4 / 7)
    assert lesion_f1(example(), 0.9, HitRule()) == pytest.approx(2 / 4)
    assert best_threshold(example(), HitRule()) == 0.7
    with pytest.raises(InputError, match="no prediction"):
        best_threshold([example()[3]], HitRule())


def test_intervals_draw_patients() -> None:
    """Without lesions in a resample the value is undefined and left out; with one patient there is nothing to draw."""
    found = froc(example(), ["lesion"], HitRule(), "image", resamples=300)
    assert found.at[1.0].low < found.at[1.0].value < found.at[1.0].high
    one = [replace(image, unit="p") for image in example()]
    assert froc(one, ["lesion"], HitRule(), "patient", resamples=20).at[1.0].low == pytest.approx(2 / 3)
    none = froc([example()[2]], ["lesion"], HitRule(), "image", resamples=5)
    assert np.isnan(none.at[1.0].value)
