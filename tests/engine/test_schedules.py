"""Values of the method cards, computed by hand there."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from medkd.engine.options import LearningRate
from medkd.engine.schedules import cosine, ema_warmup, poly, sigmoid_ramp, staircase


@pytest.mark.parametrize(
    ("iteration", "weight"),
    [(0, 0.000673795), (1000, 0.000905444), (6000, 0.00407622), (15000, 0.0286505), (29999, 0.0999875), (30000, 0.1)],
)
def test_published_consistency_ramp(iteration: int, weight: float) -> None:
    assert 0.1 * sigmoid_ramp(iteration // 150, 200) == pytest.approx(weight, rel=2e-6)


@pytest.mark.parametrize(("iteration", "weight"), [(0, 0.0134759), (7500, 2.0), (30000, 2.0)])
def test_published_ramp_of_fifty_stairs(iteration: int, weight: float) -> None:
    assert 2 * sigmoid_ramp(iteration // 150, 50) == pytest.approx(weight, rel=2e-6)


def test_a_ramp_without_length_is_full() -> None:
    assert sigmoid_ramp(0, 0) == 1.0


@pytest.mark.parametrize(
    ("k", "decay"), [(0, 0.0), (1, 0.5), (2, 2 / 3), (9, 0.9), (98, 0.98990), (99, 0.99), (5000, 0.99)]
)
def test_ema_warmup(k: int, decay: float) -> None:
    assert ema_warmup(k, 0.99) == pytest.approx(decay, abs=5e-6)


@pytest.mark.parametrize(("epoch", "rate"), [(0, 0.01), (500, 0.00535887), (999, 1.99526e-5), (1000, 0.0)])
def test_poly(epoch: int, rate: float) -> None:
    assert 0.01 * poly(epoch, 1000) == pytest.approx(rate, rel=2e-6)


@pytest.mark.parametrize(("step", "rate"), [(0, 0.01), (2499, 0.01), (2500, 0.001), (5200, 1e-4)])
def test_staircase_of_the_left_atrium_recipe(step: int, rate: float) -> None:
    assert 0.01 * staircase(step, 2500) == pytest.approx(rate)


def test_cosine_with_warm_up() -> None:
    assert [cosine(s, 14, 4) for s in range(4)] == [0.25, 0.5, 0.75, 1.0]
    assert cosine(4, 14, 4) == 1.0
    assert cosine(9, 14, 4) == pytest.approx(0.5)
    assert cosine(14, 14, 4) == pytest.approx(0.0)


@given(st.sampled_from(["constant", "poly", "staircase", "cosine"]), st.integers(1, 500), st.data())
def test_learning_rates_stay_in_range_and_never_rise(kind: str, total: int, data: st.DataObject) -> None:
    schedule = LearningRate(kind=kind)
    step = data.draw(st.integers(0, total - 1))
    now, later = schedule(step, total), schedule(step + 1, total)
    assert 0 <= later <= now <= 1
    assert math.isclose(schedule(0, total), 1.0)


@given(st.floats(0, 1e5), st.floats(0, 1e5), st.floats(1e-3, 1e5))
def test_ramps_never_fall(a: float, b: float, length: float) -> None:
    low, high = sorted((a, b))
    assert math.exp(-5) * (1 - 1e-12) <= sigmoid_ramp(low, length) <= sigmoid_ramp(high, length) <= 1
