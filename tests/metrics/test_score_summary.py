"""Means over cases then classes, counts of the undefined, and intervals that resample patients."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import numpy as np
import pytest

from medkd.errors import InputError
from medkd.metrics.bootstrap import draw_weights, estimate
from medkd.metrics.cases import CaseScores
from medkd.metrics.scores import METRICS, segmentation_scores
from medkd.metrics.summary import summarise

Case = Callable[..., CaseScores]
NAN = math.nan


def test_cases_are_averaged_before_classes(case: Case) -> None:
    summary = summarise([case("1", "p", 0.9, 0.5), case("2", "q", 0.7, NAN), case("3", "r", 0.5, 0.3)])
    a, b = (summary.classes[c].metrics["dice"] for c in "ab")
    assert (a.mean, a.sd, a.n, a.undefined) == (pytest.approx(0.7), pytest.approx(0.2), 3, 0)
    assert (b.mean, b.n, b.undefined) == (pytest.approx(0.4), 2, 1)
    overall = summary.mean_over_classes.metrics["dice"]
    assert overall.mean == pytest.approx(0.55)  # the mean of case means (0.7, 0.7, 0.4) would be 0.6
    assert overall.sd == pytest.approx(np.std([0.7, 0.7, 0.4], ddof=1))
    assert (overall.n, overall.undefined, overall.classes) == (5, 1, 2)
    assert (summary.cases, summary.patients) == (3, 3)


def test_empty_masks_are_counted_by_kind(case: Case) -> None:
    false_alarm = case("4", "s", 0.0, 0.8, prediction_voxels=5, reference_voxels=0)
    summary = summarise([case("1", "p", 0.0, 0.5), case("2", "q", 0.7, NAN), case("3", "r", 0.9, 0.3), false_alarm])
    a, overall = summary.classes["a"], summary.mean_over_classes
    assert (a.missed, a.false_alarms, a.both_empty) == (1, 1, 0)
    assert (a.metrics["dice"].n, a.metrics["hd95"].n, a.metrics["hd95"].undefined) == (4, 2, 2)
    assert a.metrics["dice"].mean == pytest.approx(0.4)  # both zeros count in Dice
    assert a.metrics["hd95"].mean == 1.0  # and are absent, not 0, in the distances
    assert (overall.missed, overall.both_empty) == (1, 1)


def test_a_class_without_any_value_is_left_out_and_said_so(case: Case) -> None:
    summary = summarise([case("1", "p", 0.8, 0.0), case("2", "q", 0.6, 0.0)])
    b, overall = summary.classes["b"].metrics["hd95"], summary.mean_over_classes.metrics["hd95"]
    assert math.isnan(b.mean)
    assert math.isnan(b.low)
    assert (b.n, b.undefined, b.classes) == (0, 2, 0)
    assert (overall.mean, overall.n, overall.undefined, overall.classes) == (1.0, 2, 2, 1)
    nothing = summarise([case("1", "p", NAN), case("2", "q", NAN)]).mean_over_classes.metrics["dice"]
    assert math.isnan(nothing.mean)
    assert nothing.classes == 0


def test_identical_patients_give_an_interval_of_no_width(case: Case) -> None:
    summary = summarise([case(str(i), f"p{i}", 0.83, 0.61) for i in range(7)])
    for group in (*summary.classes.values(), summary.mean_over_classes):
        for metric in METRICS:
            e = group.metrics[metric]
            np.testing.assert_allclose([e.low, e.high], e.mean, rtol=1e-12)
            assert e.undefined_resamples == 0


def test_patients_are_resampled_with_all_their_cases(case: Case) -> None:
    # Each patient has a bad and a good scan: every draw of patients has the same mean, draws of cases have not.
    cases = [case(f"{p}{kind}", p, d) for p in "uvwxyz" for kind, d in (("bad", 0.2), ("good", 0.8))]
    by_patient = summarise(cases).classes["a"].metrics["dice"]
    assert by_patient.low == pytest.approx(0.5)
    assert by_patient.high == pytest.approx(0.5)
    by_case = summarise([dataclasses.replace(c, patient=c.case) for c in cases]).classes["a"].metrics["dice"]
    assert by_case.high - by_case.low > 0.2
    # And the other way round: two scans of a patient that agree are not twice the evidence.
    twins = [case(f"{p}{k}", str(p), d) for p, d in enumerate((0.2, 0.8, 0.3, 0.9, 0.4)) for k in "ab"]
    single = [c for c in twins if c.case.endswith("a")]
    assert summarise(twins).classes["a"].metrics["dice"].low == pytest.approx(
        summarise(single).classes["a"].metrics["dice"].low
    )


def test_interval_equals_a_bootstrap_written_out() -> None:
    values = np.array([[0.9, 0.4], [0.7, np.nan], [0.5, 0.2], [0.6, 0.8]])
    patient = np.array([0, 0, 1, 2])
    weights = draw_weights(3, 500, seed=3)
    means = []
    for draw in weights.astype(int):
        drawn = np.concatenate([np.repeat(values[patient == p], times, axis=0) for p, times in enumerate(draw)])
        means.append(np.nanmean(drawn, axis=0).mean())
    result = estimate(values, patient, weights)[1]
    assert (result.low, result.high) == pytest.approx(tuple(np.percentile(means, [2.5, 97.5])))
    assert result.undefined_resamples == 0


def test_weights_are_draws_with_replacement_and_seeded() -> None:
    weights = draw_weights(5, 4000, seed=1)
    assert (weights.sum(1) == 5).all()
    assert (weights == 0).mean() == pytest.approx(0.8**5, abs=0.02)
    np.testing.assert_array_equal(weights, draw_weights(5, 4000, seed=1))
    assert (weights != draw_weights(5, 4000, seed=2)).any()


def test_resamples_without_a_class_are_left_out_and_counted(case: Case) -> None:
    cases = [
        case("1", "p", 0.9, 0.5),
        case("2", "q", 0.7, 0.3),
        *(case(str(i), str(i), 0.8, NAN) for i in range(3, 6)),
    ]
    b = summarise(cases, resamples=4000).classes["b"].metrics["dice"]
    assert b.undefined_resamples / 4000 == pytest.approx(0.6**5, abs=0.02)
    assert (b.low, b.high) == (pytest.approx(0.3), pytest.approx(0.5))


def test_one_patient_has_no_interval(case: Case) -> None:
    cases = [case("1", "p", 0.9, 0.5), case("2", "p", 0.7, 0.3), case("3", "q", 0.7, NAN)]
    alone = summarise(cases[:2]).mean_over_classes.metrics["dice"]
    assert alone.mean == pytest.approx(0.6)
    assert math.isnan(alone.low)
    b = summarise(cases).classes["b"].metrics["dice"]  # defined in one patient only
    assert math.isnan(b.high)


def test_order_of_cases_changes_nothing(case: Case) -> None:
    cases = [case(str(i), f"p{i % 4}", d, 1 - d) for i, d in enumerate(np.linspace(0.1, 0.9, 9))]
    one, other = (summarise(c).mean_over_classes.metrics["dice"] for c in (cases, cases[::-1]))
    np.testing.assert_allclose(dataclasses.astuple(one), dataclasses.astuple(other), rtol=1e-12)


def test_real_scores_go_straight_in() -> None:
    rng = np.random.default_rng(0)
    pairs = [rng.integers(0, 3, (2, 9, 9)) for _ in range(3)]
    cases = [
        CaseScores(str(i), str(i), segmentation_scores(p, r, ("bg", "a", "b"), (1.0, 2.0)))
        for i, (p, r) in enumerate(pairs)
    ]
    mean = summarise(cases).mean_over_classes.metrics["assd"].mean
    assert mean == pytest.approx(np.mean([row.assd for c in cases for row in c.rows]))


def test_cases_that_cannot_be_averaged_are_refused(case: Case) -> None:
    first = case("1", "patient-name", 0.9)
    for other, part in (
        (case("1", "q", 0.9), "case 1 is scored 2 times"),
        (case("2", "q", 0.9, 0.8), "b: dice"),
        (case("2", "q", 0.9, unit="voxel"), "hd95_max_voxel"),
        (case("2", "q", 0.9, hd95_definition="pooled"), "hd95_pooled_mm"),
        (case("2", "q", 0.9, nsd_tolerance=2.0), "nsd_at_2mm"),
    ):
        with pytest.raises(InputError, match=part) as caught:
            summarise([first, other])
        assert "patient-name" not in str(caught.value)
    with pytest.raises(InputError, match="no scores"):
        summarise([])
