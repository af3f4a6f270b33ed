"""Kernel self-distillation against the fixtures and invariants of its card (self_distillation.md)."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.model_selection import cross_val_score
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
    """The README of the official repository prints the row of 0.35 under the heading 0.25."""
    model = toy(alpha)
    errors = [error(model.predict(GRID, r)) for r in range(1, 7)]
    assert [*errors, error(model.limit(GRID))] == pytest.approx(TABLE[alpha], abs=5e-6)


def test_the_best_alphas_of_the_card() -> None:
    """The unclipped optimum of round 2 is -0.622; it is clipped."""
    model = toy("auto")
    of_labels, unclipped = model.predict(GRID, 1), []
    for number in range(1, 6):
        of_teacher = toy(1.0).fit(X, model.predict(X, number)).predict(GRID)
        difference = of_labels - of_teacher
        unclipped.append(((SINE - of_teacher) * difference).sum() / (difference**2).sum())
    assert unclipped == pytest.approx([-0.622, 0.135, 0.334, 0.336, 0.336], abs=5e-4)
    assert model.alphas_ == pytest.approx([1, 0, 0.135, 0.334, 0.336, 0.336], abs=5e-4)
    errors = [error(model.predict(GRID, r)) for r in range(1, 7)]
    assert errors == pytest.approx([0.16477, 0.15076, 0.14876, 0.14916, 0.14937, 0.14948], abs=5e-6)


def test_the_hand_example() -> None:
    kernel, labels = np.array([[2.0, 1], [1, 2]]), np.array([1.0, 0])
    model = KernelSelfDistiller("precomputed", 1.0, 2, 0.5).fit(kernel, labels)
    assert model.eigenvalues_ == pytest.approx([1, 3])
    assert model.filters_[0] == pytest.approx([0.5, 0.75])
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


def test_alphas_may_be_an_array() -> None:
    rows = [toy(alphas, 3).alphas_.tolist() for alphas in ([0.5, 0.2], (0.5, 0.2), np.array([0.5, 0.2]))]
    assert rows == [[1, 0.5, 0.2]] * 3
    assert toy(np.array(0.5), 3).alphas_.tolist() == [1, 0.5, 0.5]


def test_a_precomputed_kernel_is_that_of_scikit_learns_folds() -> None:
    """The tag `pairwise`: rows and columns are both cut."""
    x = np.random.default_rng(0).normal(size=(30, 3))
    scores = [
        cross_val_score(KernelSelfDistiller(kernel, 0.5, 3), data, x[:, 0], cv=3)
        for kernel, data in (("linear", x), ("precomputed", x @ x.T))
    ]
    assert scores[0] == pytest.approx(scores[1])


def test_the_last_fitted_round_is_predicted_whatever_was_set_since() -> None:
    model = toy(0.5, 3)
    assert (model.set_params(rounds=6).predict(GRID) == model.predict(GRID, 3)).all()


def test_what_is_no_kernel_is_refused() -> None:
    """Its negative eigenvalues would be cut off without a word, and the fit be that of another matrix."""
    with pytest.raises(InputError, match=r"has the eigenvalue -.*; it must be positive semi-definite"):
        KernelSelfDistiller("sigmoid", gamma=3.0, coef0=-1.0).fit(X, Y)
    with pytest.raises(InputError, match="not symmetric"):
        KernelSelfDistiller("precomputed").fit(np.arange(121.0).reshape(11, 11), Y)
    with pytest.raises(ValueError, match=r"kernel has shape \(11, 5\); needed: \(n, n\)"):
        KernelSelfDistiller("precomputed").fit(np.ones((11, 5)), Y)
    single = (X @ X.T + 1).astype(np.float32)  # rounded: its smallest eigenvalues are below zero
    assert np.linalg.eigvalsh(single.astype(float))[0] < 0
    assert (KernelSelfDistiller("precomputed").fit(single, Y).eigenvalues_ >= 0).all()


def test_held_out_targets_of_another_shape_or_not_finite_are_refused() -> None:
    """One column would be compared with every column, and a NaN become the alpha."""
    two, auto = np.stack([Y, Y**2], 1), KernelSelfDistiller(alpha_ground_truth="auto")
    with pytest.raises(ValueError, match=r"y_val has shape \(11,\); needed: 11 samples of 2 targets"):
        auto.fit(X, two, X, Y)
    with pytest.raises(ValueError, match="y_val has shape"):
        auto.fit(X, Y, X, Y[:5])
    with pytest.raises(ValueError, match="y_val contains NaN"):
        auto.fit(X, Y, X, np.full(11, np.nan))
    with pytest.raises(ValueError, match=r"shape \(3,\), predictions \(3, 1\) and \(3, 1\); needed: the same"):
        best_alpha(np.ones(3), np.zeros((3, 1)), np.ones((3, 1)))
    with pytest.raises(ValueError, match="not finite"):
        best_alpha(np.ones(3), np.full(3, np.nan), np.ones(3))


def test_the_best_alpha_of_models_that_agree_is_the_labels() -> None:
    assert best_alpha(np.ones(3), np.zeros(3), np.zeros(3)) == 1.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"penalty": 0.0}, "penalty is 0.0"),
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": 2.5}, "rounds is 2.5; it must be a whole number"),
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
