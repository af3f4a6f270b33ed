from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.axes import Axes

from medkd.errors import InputError
from medkd.report.curves import arms_figure, compare_curves, smoothed, training_curves

NAN, INF = float("nan"), float("inf")


def train(phase: str, step: int, global_step: int, loss: float | None) -> dict[str, Any]:
    return {"kind": "train", "phase": phase, "step": step, "global_step": global_step, "loss": loss, "lr": 0.01}


def scored(phase: str, step: int, global_step: int, **dice: float) -> dict[str, Any]:
    scores = {f"{name}/dice": value for name, value in dice.items()} | {f"{name}/dice_rv": 0.0 for name in dice}
    return {"kind": "validation", "phase": phase, "step": step, "global_step": global_step, **scores}


TWO_PHASES = [
    train("pretrain", 20, 20, 1.0),
    train("pretrain", 40, 40, 0.5),
    scored("pretrain", 40, 40, student=0.4),
    train("selftrain", 20, 60, 2.0),
    scored("selftrain", 20, 60, student=0.5, teacher=0.6),
    train("selftrain", 40, 80, 1.5),
    scored("selftrain", 40, 80, student=0.55, teacher=0.7),
]


def lines(ax: Axes) -> list[tuple[list[float], list[float]]]:
    """Steps and values of the lines that run over steps (not the borders of phases)."""
    found = [line for line in ax.lines if line.get_linestyle() != ":"]
    return [(np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()) for line in found]


def legend(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_losses_and_scores_stand_at_their_global_step(figures, check_layout) -> None:
    training_curves(TWO_PHASES)
    loss, dice = figures[0].axes
    assert lines(loss) == [([20, 40], [1.0, 0.5]), ([60, 80], [2.0, 1.5])]
    assert lines(dice) == [([40], [0.4]), ([60, 80], [0.5, 0.55]), ([], []), ([60, 80], [0.6, 0.7])]
    assert legend(dice) == ["student", "teacher"]
    assert dice.get_ylabel() == "validation dice"
    check_layout(figures[0])


def test_a_legend_entry_has_the_colour_of_its_line(figures) -> None:
    """The teacher is missing from the first phase, where its line is empty."""
    training_curves(TWO_PHASES)
    dice = figures[0].axes[1]
    shown = dict(zip(legend(dice), [handle.get_color() for handle in dice.get_legend().legend_handles]))
    drawn = {tuple(line.get_ydata()): line.get_color() for line in dice.lines if len(line.get_xdata())}
    assert shown["teacher"] == drawn[(0.6, 0.7)] != shown["student"] == drawn[(0.5, 0.55)]


def test_phases_are_named_over_their_span(figures) -> None:
    training_curves(TWO_PHASES)
    loss, dice = figures[0].axes
    assert {text.get_text(): text.get_position()[0] for text in loss.texts} == {"pretrain": 20, "selftrain": 60}
    for ax in (loss, dice):
        assert [line.get_xdata()[0] for line in ax.lines if line.get_linestyle() == ":"] == [40]


def test_names_too_long_for_their_phase_become_numbers(figures, check_layout) -> None:
    rows = [train("a long warm-up phase", 1, 1, 1.0), train("the long training phase", 999, 1000, 0.5)]
    training_curves(rows)
    ax = figures[0].axes[0]
    assert [text.get_text() for text in ax.texts] == ["1", "2"]
    assert "1 a long warm-up phase, 2 the long training phase" in ax.get_xlabel()
    check_layout(figures[0])


def test_one_phase_needs_no_name(figures) -> None:
    training_curves(TWO_PHASES[:3])
    assert not figures[0].axes[0].texts


@pytest.mark.parametrize("row", TWO_PHASES)
def test_one_row_is_enough_and_visible(figures, check_layout, row: dict[str, Any]) -> None:
    training_curves([row])
    (ax,) = figures[0].axes
    assert all(line.get_marker() not in ("", "None", None) for line in ax.lines)
    assert sum(len(x) for x, _ in lines(ax)) == (1 if row["kind"] == "train" else sum(k.endswith("/dice") for k in row))
    check_layout(figures[0])


@pytest.mark.parametrize("bad", [NAN, INF, -INF, None])
def test_a_loss_that_is_not_finite_is_a_gap_and_is_marked(figures, bad: float | None) -> None:
    training_curves([train("a", 1, 1, 1.0), train("a", 2, 2, bad), train("a", 3, 3, 0.8)])
    (steps, values), (marked, _) = lines(figures[0].axes[0])
    assert steps == [1, 2, 3]
    assert np.array_equal(values, [1.0, NAN, 0.8], equal_nan=True)
    assert marked == [2]
    assert "not finite (1)" in legend(figures[0].axes[0])


def test_nothing_but_nan_still_draws(figures, check_layout) -> None:
    training_curves([train("a", 1, 1, NAN), scored("a", 1, 1, student=NAN)])
    check_layout(figures[0])


def test_many_rows_get_a_smoothed_line_per_phase(figures) -> None:
    rows = [train("a", i, i, float(i % 2)) for i in range(1, 101)] + [
        train("b", i, 100 + i, 5.0) for i in range(1, 101)
    ]
    training_curves(rows)
    (_, raw), (steps, smooth), (_, raw_b), (_, smooth_b) = lines(figures[0].axes[0])
    assert set(raw) == {0.0, 1.0}
    assert np.ptp(smooth) < 0.5
    assert steps[-1] == 100
    assert set(raw_b) == {5.0}
    assert smooth_b == pytest.approx([5.0] * 100)  # the loss of phase a does not leak in
    assert legend(figures[0].axes[0]) == ["as logged", "smoothed"]


def test_another_metric(figures) -> None:
    training_curves(TWO_PHASES, metric="dice_rv")
    assert {value for _, values in lines(figures[0].axes[1]) for value in values} == {0.0}


def test_rows_without_anything_to_draw_are_an_input_error() -> None:
    with pytest.raises(InputError, match="nothing is logged"):
        training_curves([])
    with pytest.raises(InputError, match="no map to draw in 1 log rows; logged: student/dice"):
        training_curves([scored("a", 1, 1, student=0.5)], metric="map")


@given(st.lists(st.floats(-10, 10) | st.just(NAN), min_size=1, max_size=30), st.sampled_from([1, 3, 5, 7]))
def test_smoothing_is_the_mean_of_the_finite_neighbours(values: list[float], window: int) -> None:
    array, half = np.array(values), window // 2
    for i, value in enumerate(smoothed(array, window)):
        near = array[max(0, i - half) : i + half + 1]
        near = near[np.isfinite(near)]
        assert np.isnan(value) if near.size == 0 else value == pytest.approx(near.mean(), abs=1e-9)


# --- comparing arms


def test_arms_are_drawn_by_the_candidate_that_ships(figures, check_layout) -> None:
    arms = {"labelled_only": TWO_PHASES[:3], "bcp": TWO_PHASES}
    compare_curves(arms)
    compare_curves(arms, shipped={"bcp": "teacher"})
    assert lines(figures[0].axes[0]) == [([40], [0.4]), ([40, 60, 80], [0.4, 0.5, 0.55])]
    assert lines(figures[1].axes[0]) == [([40], [0.4]), ([60, 80], [0.6, 0.7])]
    assert legend(figures[1].axes[0]) == ["labelled_only (student)", "bcp (teacher)"]
    for figure in figures:
        check_layout(figure)


def test_an_arm_that_has_not_validated_yet_says_so(figures) -> None:
    compare_curves({"bcp": TWO_PHASES, "new": [], "broken": [scored("a", 1, 1, student=NAN)]})
    assert legend(figures[0].axes[0]) == ["bcp (student)", "new (no validation dice)", "broken (student)"]


def test_what_cannot_be_compared_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no arm was given"):
        compare_curves({})
    with pytest.raises(InputError, match="no arm has a validation dice"):
        compare_curves({"a": [], "b": TWO_PHASES[:1]})
    with pytest.raises(InputError) as error:
        compare_curves({"a": TWO_PHASES, "b": TWO_PHASES}, shipped={"a": "averge", "b": "techer"})
    assert len(error.value.problems) == 2
    assert "logged: student, teacher" in str(error.value)


def test_ten_arms_with_long_names(figures, check_layout) -> None:
    compare_curves({f"an arm with quite a long name, number {i}": TWO_PHASES for i in range(10)})
    ax = figures[0].axes[0]
    check_layout(figures[0])
    assert len(legend(ax)) == 10
    assert len({(line.get_color(), line.get_linestyle()) for line in ax.lines}) == 10


# --- arms with their spread


def test_a_dot_a_seed_and_the_mean(figures, check_layout) -> None:
    arms_figure({"labelled_only": [0.5, 0.6, 0.7], "bcp": [0.8, NAN], "one": [0.9], "none": []})
    (ax,) = figures[0].axes
    drawn = [(line.get_marker(), np.asarray(line.get_xdata()).tolist()) for line in ax.lines]
    assert [x for marker, x in drawn if marker == "o"] == [[0.5, 0.6, 0.7], [0.8], [0.9], []]
    means = [x for marker, x in drawn if marker != "o"]
    assert np.ravel(means) == pytest.approx([0.6, 0.6, 0.8, 0.8, 0.9, 0.9])
    words = [text.get_text() for text in ax.texts]
    assert words == ["0.600 ± 0.100 (n = 3)", "0.800 (n = 1), 1 undefined", "0.900 (n = 1)", "no runs"]
    assert [label.get_text() for label in ax.get_yticklabels()] == ["labelled_only", "bcp", "one", "none"]
    check_layout(figures[0])


def test_equal_values_stay_countable(figures) -> None:
    arms_figure({"bcp": [0.8] * 10})
    dots = next(line for line in figures[0].axes[0].lines if line.get_marker() == "o")
    heights = np.sort(np.asarray(dots.get_ydata()))
    assert np.diff(heights).min() > 0.01
    assert np.abs(heights).max() < 0.32


@pytest.mark.parametrize("values", [{}, {"bcp": []}, {"bcp": [NAN, INF]}])
def test_arms_without_a_value_are_an_input_error(values: dict[str, list[float]]) -> None:
    with pytest.raises(InputError, match="no value of test Dice"):
        arms_figure(values)
