"""Ground-truth-guided self-distillation of any model: retrain it on a mix of the labels and its own predictions.

    target_t = alpha_t y + (1 - alpha_t) y_{t-1}        y_t = what the fit to target_t says of the training samples

For a squared error this is the published loss, alpha |f - y|^2 + (1 - alpha) |f - y_{t-1}|^2, but for a constant. The
alpha of a round can be estimated from two fits instead of a grid of them: one to the labels, which is the first model,
and one to the last predictions. Between them a fit is taken to be linear in its targets, which is exact for kernel
ridge (kernel_self_distillation.py) and an approximation for networks.

alpha weighs the GROUND TRUTH here (1 is an ordinary fit), the opposite of many distillation libraries.
Source: Borup and Andersen, NeurIPS 2021, arXiv 2102.13088; the estimate for networks is our reading of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from medkd.distill.methods.kernel_self_distillation import Floats, best_alpha
from medkd.errors import InputError

Predict = Callable[[Any], Floats]
"""Outputs (m, c) of a fitted model for m samples, in the units of its targets: class probabilities, or values."""
Fit = Callable[[Floats], Predict]
"""Trains a fresh model on targets (n, c) of the training samples."""


@dataclass(frozen=True)
class Round:
    """A fitted model, the weight that the labels had in its targets, and how many fits the round took."""

    predict: Predict
    alpha: float
    fits: int


def self_distillation_rounds(
    fit: Fit,
    x: Any,
    y: Floats,
    rounds: int,
    alpha_ground_truth: float | Literal["estimate"] = "estimate",
    held_out: tuple[Any, Floats] | None = None,
) -> list[Round]:
    """The models of all rounds; the first is a plain fit to the labels.

    x: training samples, as `Predict` takes them. y (n, c): their labels, one-hot for classes. alpha_ground_truth: the
    weight of the labels from the second round on, or "estimate". held_out: samples and labels (m, c) of others, for the
    estimate: never the test's. With few of them the estimate fits their noise.
    Raises InputError for options out of range and for an estimate without held-out samples; ValueError for labels and
    predictions of different shapes.

    >>> mean = lambda targets: lambda x: np.full((len(x), 1), targets.mean())  # a model that knows the mean alone
    >>> [r.alpha for r in self_distillation_rounds(mean, [0, 0], np.array([[0.0], [2.0]]), 2, 0.25)]
    [1.0, 0.25]
    """
    if rounds < 1:
        raise InputError(f"rounds is {rounds}; it must be 1 or more")
    estimate = alpha_ground_truth == "estimate"
    if not estimate and not (isinstance(alpha_ground_truth, (int, float)) and 0 <= alpha_ground_truth <= 1):
        raise InputError(f'alpha_ground_truth is {alpha_ground_truth!r}; allowed: a number in [0, 1] or "estimate"')
    if estimate and rounds > 1 and held_out is None:
        raise InputError('alpha_ground_truth is "estimate", which needs held-out data: held_out=(samples, labels)')
    done = [Round(fit(y), 1.0, 1)]
    while len(done) < rounds:
        own = done[-1].predict(x)
        if isinstance(alpha_ground_truth, str):
            assert held_out
            done.append(_estimated(fit, y, own, done[0].predict, held_out))
        else:
            done.append(Round(fit(mixed(alpha_ground_truth, y, own)), float(alpha_ground_truth), 1))
    return done


def _estimated(fit: Fit, y: Floats, own: Floats, of_labels: Predict, held_out: tuple[Any, Floats]) -> Round:
    """A round whose alpha is the best between a fit to the labels and one to the model's own predictions."""
    samples, target = held_out
    of_teacher = fit(own)
    alpha = best_alpha(target, of_labels(samples), of_teacher(samples))
    if alpha in (0.0, 1.0):  # that model is there already
        return Round(of_teacher if alpha == 0 else of_labels, alpha, 1)
    return Round(fit(mixed(alpha, y, own)), alpha, 2)


def mixed(alpha: float, y: Floats, own: Floats) -> Floats:
    """alpha * labels + (1 - alpha) * own predictions, (n, c) each. Raises ValueError for different shapes."""
    if y.shape != own.shape:
        raise ValueError(f"labels have shape {y.shape}, predictions {own.shape}; needed: the same")
    return np.asarray(alpha * y + (1 - alpha) * own)


def best_round(done: Sequence[Round], error: Callable[[Predict], float]) -> Round:
    """The round of the smallest error, the earliest of equals."""
    return min(done, key=lambda r: error(r.predict))
