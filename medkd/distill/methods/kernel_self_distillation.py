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
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from medkd.errors import InputError

Floats = NDArray[np.float64]
ROUNDING = 1e-5  # of a kernel in float32, as a share of its largest value


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
        """X (n, p), or K (n, n) if precomputed; y (n) or (n, c). X_val, y_val: read for "auto" alone.

        Raises InputError for options out of range and for a matrix that is no kernel, ValueError for unfit arrays.
        """
        given = self._given_alphas()
        if given is None and (X_val is None or y_val is None):
            raise InputError('alpha_ground_truth is "auto", which needs held-out data: fit(X, y, X_val, y_val)')
        x, y = validate_data(self, X, y, multi_output=True, y_numeric=True, dtype=np.float64)
        self.X_fit_, self.flat_ = np.asarray(x), np.ndim(y) == 1
        targets = np.asarray(y, dtype=np.float64).reshape(len(self.X_fit_), -1)
        values, self.vectors_ = eigh(symmetric(self._kernel(self.X_fit_)))
        if values[0] < -ROUNDING * abs(values).max():
            raise InputError(f"the kernel has the eigenvalue {values[0]:.3g}; it must be positive semi-definite: rbf, "
                             "linear and polynomial with coef0 >= 0 are, sigmoid need not be")  # fmt: skip
        self.eigenvalues_ = values.clip(min=0)  # what is left below is rounding
        self.spectrum_ = self.vectors_.T @ targets

        held_out = self._held_out(X_val, y_val, targets.shape[1]) if given is None else None
        shrink = self.eigenvalues_ / (self.eigenvalues_ + self.penalty)
        filters, alphas = [shrink], [1.0]
        for round_ in range(1, self.rounds):
            alpha = given[round_ - 1] if given is not None else self._best_alpha(filters[-1], held_out)
            filters.append(shrink * (alpha + (1 - alpha) * filters[-1]))
            alphas.append(alpha)
        self.filters_, self.alphas_ = np.stack(filters), np.array(alphas)
        return self

    def predict(self, X: ArrayLike, round: int | None = None) -> Floats:
        """Predictions (m) or (m, c) of a round, from 1; of the last if not given."""
        check_is_fitted(self)
        number = len(self.filters_) if round is None else round
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

    def _held_out(self, X_val: ArrayLike | None, y_val: ArrayLike | None, columns: int) -> tuple[Floats, Floats]:
        """The kernel of held-out samples in the eigenvectors (m, n), and their targets (m, c)."""
        projected = self._kernel(validate_data(self, X_val, reset=False, dtype=np.float64)) @ self.vectors_
        target: Floats = check_array(y_val, ensure_2d=False, dtype=np.float64, input_name="y_val")
        if target.reshape(len(target), -1).shape != (len(projected), columns):
            raise ValueError(f"y_val has shape {target.shape}; needed: {len(projected)} samples of {columns} targets")
        return projected, target.reshape(len(target), -1)

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

    def _given_alphas(self) -> list[float] | None:
        """One a round from the second on; None for "auto"."""
        if not self.penalty > 0:
            raise InputError(f"penalty is {self.penalty}; it must be above 0")
        if not isinstance(self.rounds, (int, np.integer)) or self.rounds < 1:
            raise InputError(f"rounds is {self.rounds!r}; it must be a whole number, 1 or more")
        given = self.alpha_ground_truth
        if isinstance(given, str):
            if given != "auto":
                raise InputError(f'alpha_ground_truth is {given!r}; allowed: numbers in [0, 1] or "auto"')
            return None
        alphas = np.ravel(given).tolist() * (self.rounds - 1 if np.ndim(given) == 0 else 1)
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


def symmetric(kernel: Floats) -> Floats:
    """The kernel (n, n) itself. Raises ValueError for another shape, InputError for one that is not symmetric."""
    if kernel.shape[0] != kernel.shape[1]:
        raise ValueError(
            f"the kernel has shape {kernel.shape}; needed: (n, n), of the training samples with themselves"
        )
    if abs(kernel - kernel.T).max() > ROUNDING * abs(kernel).max():
        raise InputError("the kernel is not symmetric: k(a, b) must equal k(b, a)")
    return kernel


def best_alpha(target: Floats, of_labels: Floats, of_teacher: Floats) -> float:
    """The alpha in [0, 1] that brings alpha * of_labels + (1 - alpha) * of_teacher nearest to the target.

    All of one shape: predictions for held-out samples by a model fitted to the labels, and by one fitted to the last
    round's predictions. 1 where these two agree. Raises ValueError for values that are not finite and for shapes that
    differ, which would broadcast.

    >>> best_alpha(np.array([1.0, 1.0]), np.array([2.0, 2.0]), np.array([0.0, 0.0]))
    0.5
    """
    if not target.shape == of_labels.shape == of_teacher.shape:
        raise ValueError(
            f"held-out labels have shape {target.shape}, predictions {of_labels.shape} and {of_teacher.shape}; "
            "needed: the same"
        )
    if not all(np.isfinite(values).all() for values in (target, of_labels, of_teacher)):
        raise ValueError("held-out labels or predictions hold values that are not finite: no alpha can be estimated")
    difference = of_labels - of_teacher
    size = float((difference**2).sum())
    return float(np.clip(((target - of_teacher) * difference).sum() / size, 0, 1)) if size > 0 else 1.0
