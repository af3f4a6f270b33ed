"""Ground-truth-guided self-distillation of kernel ridge regression, in closed form, as a scikit-learn estimator.

The model is fitted, then fitted again to a mix of the labels and its own predictions, for some rounds:

    target_t = alpha_t y + (1 - alpha_t) y_{t-1}        y_t = K (K + penalty I)^-1 target_t

With K = V diag(d) V^T and a = d / (d + penalty) a round multiplies the spectrum of y by b_1 = a,
b_t = a (alpha_t + (1 - alpha_t) b_{t-1}): one eigendecomposition, then O(n) a round. For a constant alpha > 0 the limit
is ridge regression with the penalty / alpha; for alpha = 0 it is zero.

alpha weighs the GROUND TRUTH here (1 is an ordinary fit), the opposite of many distillation libraries.
Source: Borup and Andersen, NeurIPS 2021, arXiv 2102.13088.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import eigh
from sklearn.base import BaseEstimator, MultiOutputMixin, RegressorMixin
from sklearn.metrics.pairwise import pairwise_kernels
from sklearn.utils.validation import check_is_fitted, validate_data

from medkd.errors import InputError

Floats = NDArray[np.float64]


class KernelSelfDistiller(MultiOutputMixin, RegressorMixin, BaseEstimator):
    """kernel, gamma, degree, coef0: as in sklearn.metrics.pairwise.pairwise_kernels, or "precomputed".

    penalty: added to the diagonal of K as it is, not n times it. rounds: fits in a row; 1 is plain kernel ridge.
    alpha_ground_truth: weight of the labels in [0, 1], one number or one a round from the second on, or "auto": the
    best of each round for held-out data, which `fit` then needs.

    After `fit`: filters_ (rounds, n), the factors b_t on the spectrum; alphas_ (rounds), of which the first is 1;
    eigenvalues_ (n), rising.
    """

    def __init__(
        self,
        kernel: Any = "rbf",
        penalty: float = 1.0,
        rounds: int = 3,
        alpha_ground_truth: float | Sequence[float] | Literal["auto"] = 0.5,
        gamma: float | None = None,
        degree: float = 3,
        coef0: float = 1,
    ):
        self.kernel = kernel
        self.penalty = penalty
        self.rounds = rounds
        self.alpha_ground_truth = alpha_ground_truth
        self.gamma = gamma
        self.degree = degree
        self.coef0 = coef0

    def fit(
        self, X: ArrayLike, y: ArrayLike, X_val: ArrayLike | None = None, y_val: ArrayLike | None = None
    ) -> KernelSelfDistiller:
        """X (n, p), or K (n, n) if precomputed; y (n) or (n, c). X_val, y_val: for "auto" alone.

        Raises InputError for options out of range, ValueError (of scikit-learn) for unfit arrays.
        """
        given = self._given_alphas()
        if self.alpha_ground_truth == "auto" and (X_val is None or y_val is None):
            raise InputError('alpha_ground_truth is "auto", which needs held-out data: fit(X, y, X_val, y_val)')
        x, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        self.X_fit_, self.flat_ = np.asarray(x), np.ndim(y) == 1
        targets = np.asarray(y, dtype=np.float64).reshape(len(self.X_fit_), -1)
        values, self.vectors_ = eigh(self._kernel(self.X_fit_))
        self.eigenvalues_ = values.clip(min=0)  # what is below is rounding: a kernel has no negative eigenvalue
        self.spectrum_ = self.vectors_.T @ targets

        held_out = None
        if X_val is not None and y_val is not None:
            projected = self._kernel(validate_data(self, X_val, reset=False, dtype=np.float64)) @ self.vectors_
            held_out = projected, np.asarray(y_val, dtype=np.float64).reshape(len(projected), -1)
        shrink = self.eigenvalues_ / (self.eigenvalues_ + self.penalty)
        filters, alphas = [shrink], [1.0]
        for round_ in range(1, self.rounds):
            alpha = given[round_ - 1] if given else self._best_alpha(filters[-1], held_out)
            filters.append(shrink * (alpha + (1 - alpha) * filters[-1]))
            alphas.append(alpha)
        self.filters_, self.alphas_ = np.stack(filters), np.array(alphas)
        return self

    def predict(self, X: ArrayLike, round: int | None = None) -> Floats:
        """Predictions (m) or (m, c) of a round, from 1; of the last if not given."""
        check_is_fitted(self)
        number = self.rounds if round is None else round
        if not 1 <= number <= len(self.filters_):
            raise InputError(f"round is {number}; it must be 1 to {len(self.filters_)}")
        before = self.filters_[number - 2] if number > 1 else np.ones_like(self.eigenvalues_)
        alpha = self.alphas_[number - 1]
        return self._from_spectrum(X, (alpha + (1 - alpha) * before) / (self.eigenvalues_ + self.penalty))

    def limit(self, X: ArrayLike) -> Floats:
        """What endless rounds with a constant alpha predict: ridge regression with penalty / alpha, or zero.

        Raises InputError for alphas that differ.
        """
        check_is_fitted(self)
        if len(self.alphas_) < 2 or np.ptp(self.alphas_[1:]):
            raise InputError(
                f"alphas_ are {self.alphas_.tolist()}; a limit needs a second round and one constant alpha"
            )
        alpha = self.alphas_[1]
        return self._from_spectrum(X, alpha / (alpha * self.eigenvalues_ + self.penalty))

    def _from_spectrum(self, X: ArrayLike, factors: Floats) -> Floats:
        kernel = self._kernel(validate_data(self, X, reset=False, dtype=np.float64))
        found: Floats = kernel @ (self.vectors_ @ (factors[:, None] * self.spectrum_))
        return found[:, 0] if self.flat_ else found

    def _best_alpha(self, before: Floats, held_out: tuple[Floats, Floats] | None) -> float:
        """Of the next round, in which a fit to the labels and one to the last predictions are mixed."""
        assert held_out
        projected, target = held_out
        of_labels = projected @ (self.spectrum_ / (self.eigenvalues_ + self.penalty)[:, None])
        of_teacher = projected @ (self.spectrum_ * (before / (self.eigenvalues_ + self.penalty))[:, None])
        return best_alpha(target, of_labels, of_teacher)

    def _kernel(self, X: Floats) -> Floats:
        """(len(X), n). Of precomputed kernels X is that already."""
        if self.kernel == "precomputed":
            return X
        options = {} if callable(self.kernel) else {"gamma": self.gamma, "degree": self.degree, "coef0": self.coef0}
        kernel: Floats = pairwise_kernels(X, self.X_fit_, metric=self.kernel, filter_params=True, **options)
        return kernel

    def _given_alphas(self) -> list[float]:
        """One a round from the second on; none for "auto"."""
        if not self.penalty > 0:
            raise InputError(f"penalty is {self.penalty}; it must be above 0")
        if self.rounds < 1:
            raise InputError(f"rounds is {self.rounds}; it must be 1 or more")
        given = self.alpha_ground_truth
        if isinstance(given, str):
            if given != "auto":
                raise InputError(f'alpha_ground_truth is {given!r}; allowed: numbers in [0, 1] or "auto"')
            return []
        alphas = [float(given)] * (self.rounds - 1) if np.isscalar(given) else [float(v) for v in given]  # type: ignore
        if len(alphas) != self.rounds - 1 or not all(0 <= v <= 1 for v in alphas):
            raise InputError(
                f"alpha_ground_truth is {given}; it must be one number in [0, 1], or one for each of the "
                f"{self.rounds - 1} rounds after the first"
            )
        return alphas

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.pairwise = self.kernel == "precomputed"
        return tags


def best_alpha(target: Floats, of_labels: Floats, of_teacher: Floats) -> float:
    """The alpha in [0, 1] that brings alpha * of_labels + (1 - alpha) * of_teacher nearest to the target.

    All of one shape: predictions for held-out samples by a model fitted to the labels, and by one fitted to the last
    round's predictions. 1 where these two agree.

    >>> best_alpha(np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array([0.0, 0.0]))
    0.5
    """
    difference = of_labels - of_teacher
    size = float((difference**2).sum())
    return float(np.clip(((target - of_teacher) * difference).sum() / size, 0, 1)) if size > 0 else 1.0
