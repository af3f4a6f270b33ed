"""The experiments of the card of self-distillation: kernel ridge on the diabetes data, and a network on digits."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.claims.digits import split, train
from medkd.claims.small import SmallClaim, Statement
from medkd.distill.methods.kernel_self_distillation import Floats, KernelSelfDistiller
from medkd.distill.methods.self_distillation_rounds import Predict, best_round, self_distillation_rounds
from medkd.engine.randomness import seeded

TRAIN, VALIDATION = 220, 100  # of 442; the rest is the test
GAMMA, ROUNDS = 0.05, 6
FIXED = 0.35  # an alpha between the two ends
WEAK, STRONG = 0.05, 50.0
GRID = np.logspace(-3, 3, 61)
IMAGES, HELD_OUT, UNSEEN = 200, 200, 1000  # digits
STEPS, HIDDEN = 250, 48


def run(seed: int) -> dict[str, dict[str, float]]:
    kernel, digits = on_diabetes(seed), on_digits(seed)
    return {arm: kernel[arm] | {"digits": digits[arm]} for arm in kernel}


def on_digits(seed: int) -> dict[str, float]:
    """Test error rate of a perceptron that is retrained on class probabilities, by the squared error."""
    (images, labels), (held, held_labels), (unseen, truth) = split(seed, IMAGES, HELD_OUT, UNSEEN)

    def fit(targets: Floats) -> Predict:
        with seeded("self-distillation", seed):  # every fit starts alike and sees the same batches
            model = nn.Sequential(nn.Flatten(), nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
        wanted = torch.tensor(targets, dtype=torch.float32)

        def loss(rows: Tensor, g: torch.Generator) -> Tensor:
            return F.mse_loss(model(images[rows]).softmax(1), wanted[rows])

        train(model.parameters(), IMAGES, loss, STEPS, seed)
        return lambda x: model(x).softmax(1).detach().double().numpy()

    def wrong(predict: Predict, x: Tensor, y: Tensor) -> float:
        return float((predict(x).argmax(1) != y.numpy()).mean())

    y, y_held = (F.one_hot(v, 10).double().numpy() for v in (labels, held_labels))
    kept = self_distillation_rounds(fit, images, y, ROUNDS, "estimate", (held, y_held))
    mixed, none = (self_distillation_rounds(fit, images, y, ROUNDS, alpha) for alpha in (FIXED, 0.0))
    found = {"one fit": wrong(kept[0].predict, unseen, truth)}
    for name, done in (("labels kept", kept), ("fixed mix", mixed), ("no labels", none)):
        best = best_round(done, lambda predict: wrong(predict, held, held_labels))
        found[name] = wrong(best.predict, unseen, truth)
        found[f"{name}, round {ROUNDS}"] = wrong(done[-1].predict, unseen, truth)
    return found


def on_diabetes(seed: int) -> dict[str, dict[str, float]]:
    """Test error over the variance of the training targets, for fits that know the labels of TRAIN samples."""
    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(x))
    rows = order[:TRAIN], order[TRAIN : TRAIN + VALIDATION], order[TRAIN + VALIDATION :]
    x = (x - x[rows[0]].mean(0)) / x[rows[0]].std(0)
    y = (y - y[rows[0]].mean()) / y[rows[0]].std()
    (x_train, x_val, x_test), (y_train, y_val, y_test) = ([a[r] for r in rows] for a in (x, y))

    def error(predicted: np.ndarray, truth: np.ndarray) -> float:
        return float(((predicted - truth) ** 2).mean())

    def arms(penalty: float) -> dict[str, float]:
        """One fit, and the round that is best on validation, with the alphas of validation, a fixed one, and 0."""
        found = {"one fit": error(fitted(penalty, 1).predict(x_test), y_test)}
        for name, alpha in (("labels kept", "auto"), ("fixed mix", FIXED), ("no labels", 0.0)):
            model = fitted(penalty, ROUNDS, alpha)
            best = min(range(1, ROUNDS + 1), key=lambda r: error(model.predict(x_val, r), y_val))
            found[name] = error(model.predict(x_test, best), y_test)
            found[f"{name}, round {ROUNDS}"] = error(model.predict(x_test), y_test)
        return found

    def fitted(penalty: float, rounds: int, alpha: object = 1.0) -> KernelSelfDistiller:
        model = KernelSelfDistiller("rbf", penalty, rounds, alpha, gamma=GAMMA)  # type: ignore[arg-type]
        return model.fit(x_train, y_train, x_val, y_val)

    tuned = min(GRID, key=lambda p: error(fitted(p, 1).predict(x_val), y_val))
    penalties = {"weak": WEAK, "tuned": float(tuned), "strong": STRONG}
    columns = {name: arms(penalty) for name, penalty in penalties.items()}
    return {arm: {name: column[arm] for name, column in columns.items()} for arm in columns["weak"]}


CLAIM = SmallClaim(
    setting=(
        f"*Setting:* (1) the diabetes data of scikit-learn, kernel ridge regression (RBF, gamma {GAMMA}, standardised "
        f"columns), {TRAIN} training, {VALIDATION} validation and {442 - TRAIN - VALIDATION} test patients, split anew "
        f"each seed; mean squared error in units of the training variance. Three penalties: {WEAK:g} (weak), the best "
        f"single fit on validation (tuned), {STRONG:g} (strong). *Labels kept*: the alpha of each round is the best on "
        f"validation, *fixed mix*: alpha {FIXED:g}, *no labels*: alpha 0; the round is chosen on validation among "
        f"{ROUNDS}, or it is round {ROUNDS}. "
        "The sine toy of the card is a test (tests/distill/test_kernel_self_distillation.py): its table is met to 5 "
        f"decimals. (2) digits: a perceptron of {HIDDEN} hidden units and the squared error of class probabilities, "
        f"{IMAGES} training, {HELD_OUT} validation and {UNSEEN} test images, {STEPS} steps a fit. *Labels kept*: the "
        "alpha of a round is estimated on validation from a fit to the labels and one to the last predictions; "
        "where it is 1 the first model stays. **It was 1 in every round of these seeds**, so nothing was "
        "distilled in this arm. The paper trains ResNets on CIFAR-10. **Third version:** the first (version 1 of the "
        "lines) had no digits, the second no fixed mix; the other numbers are the same."
    ),
    arms={
        "one fit": "",
        "labels kept": "",
        f"labels kept, round {ROUNDS}": "",
        "fixed mix": "",
        f"fixed mix, round {ROUNDS}": "",
        "no labels": "",
        f"no labels, round {ROUNDS}": "",
    },
    metrics={
        "weak": "test error, weak penalty",
        "tuned": "test error, tuned penalty",
        "strong": "test error, strong penalty",
        "digits": "test error rate, digits",
    },
    lower=frozenset({"weak", "tuned", "strong", "digits"}),
    version=3,
    statements=(
        Statement("labels kept", "one fit", "weak"),
        Statement(f"labels kept, round {ROUNDS}", f"no labels, round {ROUNDS}", "tuned"),
        Statement("labels kept", "no labels", "weak", claimed=False),
        Statement("labels kept", "one fit", "tuned", claimed=False),
        Statement("labels kept", "one fit", "strong", claimed=False),
        Statement("labels kept", "one fit", "digits", claimed=False),
        Statement("fixed mix", "one fit", "digits", claimed=False),
        Statement(f"fixed mix, round {ROUNDS}", f"no labels, round {ROUNDS}", "digits", claimed=False),
        Statement(f"labels kept, round {ROUNDS}", f"no labels, round {ROUNDS}", "digits", claimed=False),
    ),
    run=run,
    seeds=10,
)
