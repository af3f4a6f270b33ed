"""Second run minus first run on the same cases."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import pytest

from medkd.errors import InputError
from medkd.metrics.cases import CaseScores
from medkd.metrics.comparison import paired_difference
from medkd.metrics.scores import METRICS
from medkd.metrics.summary import summarise

Case = Callable[..., CaseScores]


def test_constant_gain_has_no_width_however_much_cases_vary(case: Case) -> None:
    dices = (0.3, 0.9, 0.5, 0.7)
    first = [case(str(i), f"p{i}", d) for i, d in enumerate(dices)]
    second = [case(str(i), f"p{i}", d + 0.05) for i, d in enumerate(dices)]
    gain = paired_difference(first, second[::-1]).classes["a"]["dice"]  # cases are matched by id, not by place
    assert (gain.first, gain.second) == (pytest.approx(0.6), pytest.approx(0.65))
    d = gain.difference
    assert (d.mean, d.low, d.high) == pytest.approx((0.05, 0.05, 0.05))
    back = paired_difference(second, first).classes["a"]["dice"].difference
    assert back.mean == pytest.approx(-0.05)


def test_a_run_against_itself_is_zero(case: Case) -> None:
    run = [case("1", "p", 0.3, 0.0), case("2", "q", 0.8, 0.4), case("3", "q", 0.6, math.nan)]
    result = paired_difference(run, run)
    for metric in METRICS:
        d = result.mean_over_classes[metric].difference
        assert (d.mean, d.low, d.high) == (0.0, 0.0, 0.0)


def test_patients_weigh_the_same(case: Case) -> None:
    first = [case("1", "p", 0.5), case("2", "p", 0.5), case("3", "p", 0.5), case("4", "q", 0.5)]
    second = [case("1", "p", 0.6), case("2", "p", 0.7), case("3", "p", 0.8), case("4", "q", 0.5)]
    d = paired_difference(first, second).classes["a"]["dice"].difference
    assert d.mean == pytest.approx(0.1)  # p gained 0.2, q nothing; the mean over cases would be 0.15
    assert d.n == 2
    assert (d.low, d.high) == (pytest.approx(0.0), pytest.approx(0.2))


def test_with_equally_many_cases_it_is_the_difference_of_the_summaries(case: Case) -> None:
    first = [case(str(i), f"p{i // 2}", 0.1 * i + 0.1, 0.5) for i in range(6)]
    second = [case(str(i), f"p{i // 2}", 0.9 - 0.05 * i, 0.6) for i in range(6)]
    a, b = (summarise(run).mean_over_classes.metrics["dice"].mean for run in (first, second))
    assert paired_difference(first, second).mean_over_classes["dice"].difference.mean == pytest.approx(b - a)


def test_missed_structures_are_counted_on_the_side_that_missed(case: Case) -> None:
    first = [
        case("1", "p", 0.5),
        case("2", "q", 0.0),
        case("3", "r", 0.5),
        case("4", "s", 0.0),
        case("5", "t", 0.0),
    ]
    second = [
        case("1", "p", 0.5, hd95=3.0),
        case("2", "q", 0.6),
        case("3", "r", 0.0),
        case("4", "s", 0.0),
        case("5", "t", 0.7),
    ]
    hd95 = paired_difference(first, second).classes["a"]["hd95"]
    assert (hd95.undefined_first, hd95.undefined_second, hd95.undefined_both) == (2, 1, 1)
    assert (hd95.first, hd95.second, hd95.difference.mean, hd95.difference.n) == (1.0, 3.0, 2.0, 1)
    assert math.isnan(hd95.difference.low)  # one patient is left


def test_runs_that_are_not_pairs_are_refused(case: Case) -> None:
    run = [case("1", "patient-name", 0.5), case("2", "q", 0.5)]
    with pytest.raises(InputError) as caught:
        paired_difference(run, [dataclasses.replace(run[0], case="3"), dataclasses.replace(run[1], patient="z")])
    assert len(caught.value.problems) == 3
    assert "patient-name" not in str(caught.value)
    with pytest.raises(InputError, match="case 2 was scored against two different references"):
        paired_difference(run, [run[0], case("2", "q", 0.5, reference_voxels=11)])
    with pytest.raises(InputError, match="hd95_max_voxel"):
        paired_difference(run, [case(c.case, c.patient, 0.5, unit="voxel") for c in run])
