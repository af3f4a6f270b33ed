"""Scores of label maps: which class is which, what empty masks give, which inputs are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest

from medkd.errors import InputError
from medkd.metrics.scores import METRICS, segmentation_scores

CLASSES = ("background", "rv", "myo", "lv")


def maps() -> tuple[np.ndarray, np.ndarray]:
    """rv: two voxels against one of them; myo: missed; lv: false alarm."""
    prediction, reference = np.zeros((2, 3, 8, 8), np.uint8)
    prediction[1, 2, 2:4] = reference[1, 2, 2] = 1
    reference[1, 5, 5] = 2
    prediction[0, 7, 7] = 3
    return prediction, reference


def test_one_row_a_foreground_class_with_units_and_volumes() -> None:
    rv, myo, lv = segmentation_scores(*maps(), CLASSES, (10.0, 1.5, 2.0), hd95="pooled", nsd_tolerance=1.0)
    assert [row.name for row in (rv, myo, lv)] == ["rv", "myo", "lv"]
    assert rv.dice == pytest.approx(2 / 3)
    assert rv.jaccard == pytest.approx(1 / 2)
    assert rv.assd == pytest.approx(2 / 3)  # surfaces: {0, 2 mm} and {0}
    assert rv.hd95 == pytest.approx(1.8)  # position 0.95 * 2 = 1.9 of 0, 0, 2
    assert rv.nsd == pytest.approx(2 / 3)
    assert (rv.prediction_voxels, rv.reference_voxels) == (2, 1)
    assert rv.voxel_ml == pytest.approx(0.03)
    assert rv.columns == {
        "dice": "dice",
        "jaccard": "jaccard",
        "hd95": "hd95_pooled_mm",
        "assd": "assd_pooled_mm",
        "nsd": "nsd_at_1mm",
    }


def test_without_spacing_distances_are_in_voxels() -> None:
    rv = segmentation_scores(*maps(), CLASSES, None, nsd_tolerance=1.5)[0]
    assert rv.unit == "voxel"
    assert rv.assd == pytest.approx(1 / 3)
    assert rv.voxel_ml is None
    assert [rv.columns[m] for m in ("hd95", "assd", "nsd")] == [
        "hd95_max_voxel",
        "assd_pooled_voxel",
        "nsd_at_1.5voxel",
    ]
    flat = segmentation_scores(*(m[1] for m in maps()), CLASSES, (1.5, 2.0))[0]
    assert flat.voxel_ml is None  # an area has no volume


def test_empty_masks_are_never_a_silent_zero_or_perfect() -> None:
    prediction, reference = maps()
    _, missed, false_alarm = segmentation_scores(prediction, reference, CLASSES, None)
    for row in (missed, false_alarm):
        assert row.dice == row.jaccard == row.nsd == 0.0
        assert math.isnan(row.hd95)
        assert math.isnan(row.assd)
    assert (missed.empty_prediction, missed.empty_reference) == (True, False)
    assert (false_alarm.empty_prediction, false_alarm.empty_reference) == (False, True)
    absent = segmentation_scores(prediction, reference, (*CLASSES, "scar"), None)[3]
    assert absent.empty_prediction
    assert absent.empty_reference
    assert all(math.isnan(getattr(absent, m)) for m in METRICS)


def test_every_problem_is_named_at_once() -> None:
    prediction, reference = maps()
    with pytest.raises(InputError) as caught:
        segmentation_scores(
            prediction[:2].astype(np.float32),
            reference.astype(np.int16) - 1,
            CLASSES,
            (1.0, -1.0, 1.0),
            hd95="medpy",  # type: ignore[arg-type]
            nsd_tolerance=math.nan,
        )
    text = "\n".join(caught.value.problems)
    for part in ("(2, 8, 8)", "float32", "labels [-1]", "(1.0, -1.0, 1.0)", "'medpy'", "nan"):
        assert part in text


@pytest.mark.parametrize("which", [0, 1])
def test_a_label_beyond_the_classes_is_refused(which: int) -> None:
    pair = maps()
    pair[which][0, 0, 0] = 9
    with pytest.raises(InputError, match=r"labels \[9\]; allowed are 0 to 3"):
        segmentation_scores(*pair, CLASSES, None)


@pytest.mark.parametrize("classes", [("background",), ("background", "rv", "rv", "lv")])
def test_classes_must_be_background_and_different_names(classes: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="background first"):
        segmentation_scores(*maps(), classes, None)


def test_a_scan_needs_two_or_three_axes() -> None:
    line = np.zeros(5, np.int64)
    with pytest.raises(InputError, match="2-D or 3-D"):
        segmentation_scores(line, line, CLASSES, None)
