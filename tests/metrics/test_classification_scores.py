"""Scores of classification: values by hand, scikit-learn's on random cases, degenerate cases, intervals."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics as reference

from medkd.errors import InputError
from medkd.metrics.classification import BINS, auc, calibration, classification_scores, point_scores

CLASSES = ("a", "b", "c")


def cases(n: int = 60, k: int = 3, seed: int = 0, ties: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that know something of the truth; with ties many are equal."""
    rng = np.random.default_rng(seed)
    truth = np.append(np.arange(k), rng.integers(0, k, n - k))
    logits = rng.normal(size=(n, k)) + 1.2 * np.eye(k)[truth]
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    if ties:
        p = np.round(p * 4) + 0.25
        p = p / p.sum(1, keepdims=True)
    return p, truth


def test_by_hand() -> None:
    """Four cases of two classes, the second called wrong."""
    p = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    found = classification_scores(p, np.array([0, 0, 1, 1]), ("no", "yes"), list("wxyz"), "patient")
    assert found.confusion.tolist() == [[1, 1], [0, 2]]
    assert found.accuracy.value == 0.75
    assert found.balanced_accuracy.value == 0.75
    no, yes = found.classes["no"], found.classes["yes"]
    assert (no.cases, no.predicted, yes.cases, yes.predicted) == (2, 1, 2, 3)
    assert (no.sensitivity.value, no.specificity.value) == (0.5, 1.0)
    assert (yes.sensitivity.value, yes.specificity.value) == (1.0, 0.5)
    assert yes.auc.value == no.auc.value == found.auc.value == 1.0
    # bins of 1/15: .9 | .6 | .8 | .7; gaps .1, .6, .2, .3
    assert found.ece.value == pytest.approx((0.1 + 0.6 + 0.2 + 0.3) / 4)
    assert found.accuracy.low < 0.75 < found.accuracy.high


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("k", [2, 3])
def test_against_scikit_learn(k: int, ties: bool) -> None:
    p, truth = cases(k=k, ties=ties)
    found = point_scores(p, truth)
    called = p.argmax(1)
    assert found.accuracy[0] == pytest.approx(reference.accuracy_score(truth, called))
    assert found.balanced_accuracy[0] == pytest.approx(reference.balanced_accuracy_score(truth, called))
    np.testing.assert_allclose(found.sensitivity[0], reference.recall_score(truth, called, average=None))
    areas = [reference.roc_auc_score(truth == c, p[:, c]) for c in range(k)]
    np.testing.assert_allclose(found.auc[0], areas)
    assert found.mean_auc[0] == pytest.approx(np.mean(areas))


def test_a_weight_of_two_is_a_case_twice() -> None:
    p, truth = cases(ties=True)
    times = np.random.default_rng(1).integers(0, 3, (2, len(truth)))
    weighted = point_scores(p, truth, times.astype(float))
    for row, weight in enumerate(times):
        again = point_scores(np.repeat(p, weight, 0), np.repeat(truth, weight))
        for name in vars(again):
            np.testing.assert_allclose(getattr(weighted, name)[row], getattr(again, name)[0], err_msg=name)


def test_bins_hold_their_upper_edge_and_every_case() -> None:
    """1 / 3 and 2 / 3 lie on edges of the 15 bins; 1 in the last."""
    p = np.array([[1 / 3, 1 / 3, 1 / 3], [2 / 3, 1 / 3, 0], [1, 0, 0], [0.96, 0.02, 0.02]])
    found = calibration(p, np.array([0, 1, 0, 1]))
    assert found.cases.sum() == 4
    assert np.flatnonzero(found.cases).tolist() == [4, 9, BINS - 1]
    assert found.accuracy[[4, 9, BINS - 1]].tolist() == [1, 0, 0.5]
    assert found.probability[BINS - 1] == pytest.approx(0.98)
    assert np.isnan(found.accuracy[0])


def test_a_class_without_a_case_is_undefined_and_left_out_of_means() -> None:
    p, truth = cases()
    kept = truth != 2
    found = classification_scores(p[kept], truth[kept], CLASSES, [str(i) for i in range(kept.sum())], "image", 50)
    gone = found.classes["c"]
    assert gone.cases == 0
    assert np.isnan([gone.sensitivity.value, gone.sensitivity.low, gone.auc.value]).all()
    assert gone.specificity.value < 1
    shown = [found.classes[name].sensitivity.value for name in "ab"]
    assert found.balanced_accuracy.value == pytest.approx(np.mean(shown))
    assert found.auc.value == pytest.approx(np.mean([found.classes[name].auc.value for name in "ab"]))
    only = point_scores(p[truth == 1], truth[truth == 1])
    assert np.isnan(only.mean_auc[0])
    assert only.balanced_accuracy[0] == only.accuracy[0]


def test_intervals_draw_patients_with_all_of_their_cases() -> None:
    """Every case five times, as five cases of one patient: the interval is as wide as with one case a patient."""
    p, truth = cases(40)
    names = [str(i) for i in range(40)]
    once = classification_scores(p, truth, CLASSES, names, "patient")
    five = classification_scores(np.tile(p, (5, 1)), np.tile(truth, 5), CLASSES, names * 5, "patient")
    assert five.units == 40
    assert (five.accuracy.low, five.accuracy.high) == pytest.approx((once.accuracy.low, once.accuracy.high))
    alone = classification_scores(p, truth, CLASSES, ["one"] * 40, "patient")
    assert alone.accuracy.value == once.accuracy.value
    assert np.isnan(alone.accuracy.low)


def test_auc_of_ties_is_a_half() -> None:
    assert auc(np.full(5, 0.2), np.array([True, False, True, False, False]), np.ones((1, 5)))[0] == 0.5


def test_what_is_refused() -> None:
    p, truth = cases(6)
    names = list("abcdef")
    with pytest.raises(InputError, match="sum to 1"):
        classification_scores(p * 2, truth, CLASSES, names, "patient")
    with pytest.raises(InputError, match="allowed: 0 to 2"):
        classification_scores(p, truth + 1, CLASSES, names, "patient")
    with pytest.raises(InputError, match="4 are named"):
        classification_scores(p, truth, ("a", "b", "c", "d"), names, "patient")
    with pytest.raises(InputError, match="one of each"):
        classification_scores(p, truth, CLASSES, names[:3], "patient")
