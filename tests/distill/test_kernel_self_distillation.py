"""Kernel self-distillation against the fixtures and invariants of its card (self_distillation.md)."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.utils.estimator_checks import check_estimator

from medkd.distill.methods.kernel_self_distillation import KernelSelfDistiller, best_alpha
from medkd.errors import InputError

# The noisy sine of the card, and the noiseless one on a grid.
X = np.arange(11)[:, None] / 10
Y = np.array(
    [0.384766, 1.233397, 1.332322, 0.692016, -0.297561, -0.241893, -0.796449, -0.961648, -0.496725, -0.346907, 0.558951]
)
GRID = np.arange(101)[:, None] / 100
SINE = np.sin(2 * np.pi * GRID[:, 0])
TABLE = {
    0.0: (0.16477, 0.15076, 0.14915, 0.15561, 0.16735, 0.18251, 0.49505),
    0.25: (0.16477, 0.15309, 0.14958, 0.14903, 0.14946, 0.15011, 0.15250),
    0.35: (0.16477, 0.15424, 0.15089, 0.14983, 0.14954, 0.14948, 0.14959),
}


def toy(alpha: object, rounds: int = 6) -> KernelSelfDistiller:
    return KernelSelfDistiller("rbf", 0.2, rounds, alpha, gamma=80).fit(X, Y, GRID, SINE)


def error(predicted: np.ndarray) -> float:
    return float(((predicted - SINE) ** 2).mean())


def test_scikit_learns_own_checks() -> None:
    results = check_estimator(KernelSelfDistiller(), on_fail=None, on_skip=None)
    assert [r["check_name"] for r in results if r["status"] == "failed"] == []
    assert sum(r["status"] == "passed" for r in results) > 40


@pytest.mark.parametrize("alpha", TABLE)
def test_the_sine_of_the_card(alpha: float) -> None:
    model = toy(alpha)
    errors = [error(model.predict(GRID, r)) for r in range(1, 7)]
    assert [*errors, error(model.limit(GRID))] == pytest.approx(TABLE[alpha], abs=5e-6)


def test_the_best_alphas_of_the_card() -> None:
    """The unclipped optimum of round 2 is -0.622; it is clipped."""
    model = toy("auto")
    assert model.alphas_ == pytest.approx([1, 0, 0.135, 0.334, 0.336, 0.336], abs=5e-4)
    errors = [error(model.predict(GRID, r)) for r in range(1, 7)]
    assert errors == pytest.approx([0.16477, 0.15076, 0.14876, 0.14916, 0.14937, 0.14948], abs=5e-6)


def test_the_hand_example() -> None:
    kernel, labels = np.array([[2.0, 1], [1, 2]]), np.array([1.0, 0])
    model = KernelSelfDistiller("precomputed", 1.0, 2, 0.5).fit(kernel, labels)
    assert model.predict(kernel, 1) == pytest.approx([0.625, 0.125])
    assert model.predict(kernel) == pytest.approx([0.515625, 0.140625])
    assert model.limit(kernel) == pytest.approx([0.466667, 0.133333], abs=1e-6)


def test_rounds_are_the_recursion() -> None:
    """Each round refitted as the text says, with different alphas, and two columns of targets."""
    alphas, targets = [0.7, 0.1, 0.4], np.stack([Y, Y**2], 1)
    model = KernelSelfDistiller("rbf", 0.2, 4, alphas, gamma=80).fit(X, targets)
    kernel = np.exp(-80 * (X - X.T) ** 2)
    smoother = kernel @ np.linalg.inv(kernel + 0.2 * np.eye(11))
    fitted = smoother @ targets
    assert model.predict(X, 1) == pytest.approx(fitted, abs=1e-12)
    for round_, alpha in enumerate(alphas, 2):
        fitted = smoother @ (alpha * targets + (1 - alpha) * fitted)
        assert model.predict(X, round_) == pytest.approx(fitted, abs=1e-12)


def test_the_general_closed_form() -> None:
    alphas = np.array([1, 0.7, 0.1, 0.4])
    model = KernelSelfDistiller("rbf", 0.2, 4, list(alphas[1:]), gamma=80).fit(X, Y)
    a = model.filters_[0]
    closed = sum(a ** (4 - i) * alphas[i] * np.prod(1 - alphas[i + 1 :]) for i in range(4))
    assert model.filters_[-1] == pytest.approx(closed, abs=1e-12)


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.6, 1.0])
def test_filters(alpha: float) -> None:
    model = toy(alpha, 8)
    a, d = model.filters_[0], model.eigenvalues_
    limit = alpha * d / (alpha * d + 0.2)
    if alpha == 1:
        assert model.filters_ == pytest.approx(np.tile(a, (8, 1)))
    if alpha == 0:
        assert model.filters_ == pytest.approx(np.stack([a**t for t in range(1, 9)]))
    assert (np.diff(model.filters_, axis=0) <= 1e-15).all()
    assert (model.filters_ >= limit - 1e-12).all()
    constant = limit + ((1 - alpha) * a) ** np.arange(8)[:, None] * (a - limit)
    assert model.filters_ == pytest.approx(constant, abs=1e-12)
    ratio = model.filters_[:, -1] / model.filters_[:, 0]  # of the largest to the smallest eigenvalue
    assert (ratio >= ratio[0] - 1e-12).all()
    if alpha == 0:
        assert (np.diff(ratio) > 0).all()


@pytest.mark.parametrize("alpha", [0.25, 0.6])
def test_the_limit_is_ridge_with_an_amplified_penalty(alpha: float) -> None:
    ridge = KernelSelfDistiller("rbf", 0.2 / alpha, 1, gamma=80).fit(X, Y)
    assert toy(alpha).limit(GRID) == pytest.approx(ridge.predict(GRID), abs=1e-12)
    assert toy(alpha, 200).predict(GRID) == pytest.approx(ridge.predict(GRID), abs=1e-12)
    assert toy(0.0).limit(GRID) == pytest.approx(np.zeros(101))


def test_the_best_alpha_beats_a_grid() -> None:
    """In each round, given the rounds before."""
    model = toy("auto", 4)
    for number in (2, 3, 4):
        before = list(model.alphas_[1 : number - 1])
        others = [
            error(KernelSelfDistiller("rbf", 0.2, number, [*before, a], gamma=80).fit(X, Y).predict(GRID))
            for a in np.linspace(0, 1, 21)
        ]
        assert error(model.predict(GRID, number)) <= min(others) + 1e-12


def test_the_best_alpha_of_models_that_agree_is_the_labels() -> None:
    assert best_alpha(np.ones(3), np.zeros(3), np.zeros(3)) == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": 0.0}, "penalty is 0.0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"alpha_ground_truth": 1.2}, "alpha_ground_truth is 1.2"),
        ({"alpha_ground_truth": [0.5]}, "one for each of the 2 rounds after the first"),
        ({"alpha_ground_truth": "best"}, "alpha_ground_truth is 'best'"),
        ({"alpha_ground_truth": "auto"}, r"needs held-out data: fit\(X, y, X_val, y_val\)"),
    ],
)
def test_bad_options_are_named(options: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        KernelSelfDistiller(**options).fit(X, Y)


def test_a_round_or_limit_that_does_not_exist_is_named() -> None:
    with pytest.raises(InputError, match="round is 7; it must be 1 to 6"):
        toy(0.5).predict(GRID, 7)
    with pytest.raises(InputError, match="a limit needs"):
        toy("auto").limit(GRID)
