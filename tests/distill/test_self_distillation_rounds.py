"""Rounds of any model: for kernel ridge they are the closed form, and the estimated alpha is the best of a grid."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from medkd.distill.methods.kernel_self_distillation import Floats, KernelSelfDistiller
from medkd.distill.methods.self_distillation_rounds import Predict, best_round, mixed, self_distillation_rounds
from medkd.errors import InputError

X = np.linspace(0, 1, 11)[:, None]
NOISY = [0.384766, 1.233397, 1.332322, 0.692016, -0.297561, -0.241893, -0.796449, -0.961648, -0.496725, -0.346907,
         0.558951]  # fmt: skip
Y = np.array(NOISY)[:, None]  # the card's sine
X_VAL = np.linspace(0, 1, 101)[:, None]
Y_VAL = np.sin(2 * np.pi * X_VAL)
PENALTY, GAMMA = 0.2, 80


def ridge(counter: list[int] | None = None) -> Any:
    """Kernel ridge fitted anew by a linear solver: no spectrum, no shortcut."""

    def fit(targets: Floats) -> Predict:
        if counter is not None:
            counter.append(1)
        weights = np.linalg.solve(kernel(X) + PENALTY * np.eye(len(X)), targets)
        return lambda x: kernel(x) @ weights

    return fit


def kernel(x: Floats) -> Floats:
    return np.exp(-GAMMA * ((x[:, None] - X[None]) ** 2).sum(2))


def closed_form(alpha: Any) -> KernelSelfDistiller:
    return KernelSelfDistiller("rbf", PENALTY, 5, alpha, gamma=GAMMA).fit(X, Y, X_VAL, Y_VAL)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 1.0])
def test_a_constant_alpha_is_the_closed_form(alpha: float) -> None:
    model = closed_form(alpha)
    for number, done in enumerate(self_distillation_rounds(ridge(), X, Y, 5, alpha), start=1):
        assert np.allclose(done.predict(X_VAL), model.predict(X_VAL, number), atol=1e-9)


def test_the_estimate_is_the_closed_forms_and_beats_a_grid() -> None:
    model, done = closed_form("auto"), self_distillation_rounds(ridge(), X, Y, 5, "estimate", (X_VAL, Y_VAL))
    assert [r.alpha for r in done] == pytest.approx(model.alphas_.tolist(), abs=1e-8)
    assert [r.alpha for r in done] == pytest.approx([1, 0, 0.135, 0.334, 0.336], abs=5e-4)  # the card's table

    def error(predict: Predict) -> float:
        return float(((predict(X_VAL) - Y_VAL) ** 2).mean())

    for before, after in itertools.pairwise(done):
        own = before.predict(X)
        grid = [error(ridge()(mixed(alpha, Y, own))) for alpha in np.linspace(0, 1, 21)]
        assert error(after.predict) <= min(grid) + 1e-12


def test_a_round_costs_two_fits_and_one_where_that_model_is_there() -> None:
    fits: list[int] = []
    done = self_distillation_rounds(ridge(fits), X, Y, 5, "estimate", (X_VAL, Y_VAL))
    assert len(fits) == sum(r.fits for r in done)
    assert [r.fits for r in done] == [1, *(1 if r.alpha in (0.0, 1.0) else 2 for r in done[1:])]
    perfect = self_distillation_rounds(ridge(), X, Y, 3, "estimate", (X, ridge()(Y)(X)))
    assert [r.alpha for r in perfect] == [1.0, 1.0, 1.0]  # the first fit is already what is wanted
    assert [r.fits for r in perfect] == [1, 1, 1]


def test_mixed_targets_are_the_published_loss() -> None:
    """alpha |f - y|^2 + (1 - alpha) |f - t|^2 is |f - (alpha y + (1 - alpha) t)|^2 and a constant in f."""
    t, fs = np.sin(Y), np.random.default_rng(0).normal(size=(4, *Y.shape))
    rest = [0.3 * ((f - Y) ** 2).sum() + 0.7 * ((f - t) ** 2).sum() - ((f - mixed(0.3, Y, t)) ** 2).sum() for f in fs]
    assert rest == pytest.approx([rest[0]] * 4)


def test_the_best_round() -> None:
    done = self_distillation_rounds(ridge(), X, Y, 4, 0.0)
    assert best_round(done, lambda predict: float((predict(X) ** 2).sum())) is done[-1]  # it shrinks at every round
    assert best_round(done, lambda predict: 0.0) is done[0]


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(InputError, match="rounds is 0"):
        self_distillation_rounds(ridge(), X, Y, 0, 0.5)
    for alpha in (1.5, -0.1, "auto"):
        with pytest.raises(InputError, match=r'a number in \[0, 1\] or "estimate"'):
            self_distillation_rounds(ridge(), X, Y, 2, alpha)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="held_out="):
        self_distillation_rounds(ridge(), X, Y, 2)
    with pytest.raises(ValueError, match=r"held-out labels have shape \(101,\), predictions \(101, 1\)"):
        self_distillation_rounds(ridge(), X, Y, 2, "estimate", (X_VAL, Y_VAL[:, 0]))
    with pytest.raises(ValueError, match="needed: the same"):
        mixed(0.5, Y, Y[:5])
