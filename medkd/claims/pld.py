"""The experiment of the card of PLD: few labels, a teacher that knows the confusions, a linear student."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from scipy.stats import kendalltau
from torch import Tensor
from torch.nn import functional as F

from medkd.claims.small import SmallClaim, Statement
from medkd.distill.losses.hinton import hinton_kd_loss
from medkd.distill.losses.pld import plackett_luce_loss, pld_loss, ranking
from medkd.engine.randomness import generator

PAIRS, DIM, LABELLED, TEST, RANKED = 10, 20, 100, 4000, 300
BETWEEN, WITHIN = 0.9, 0.23  # spread of the pairs' centres, and of the two classes of a pair around theirs
TEACHER_NOISE = 0.3  # on each logit
PENALTY = 1e-3  # on the squared weights, the same for every arm: PLD and cross-entropy have no finite minimum
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]


def list_mle(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    """PLD with equal weights."""
    order = ranking(teacher, labels)
    return plackett_luce_loss(student.gather(1, order), torch.full_like(student, 1 / student.shape[1])).mean()


LOSSES: dict[str, Loss] = {
    "cross-entropy": lambda s, t, y: F.cross_entropy(s, y),
    "hinton": lambda s, t, y: 0.1 * F.cross_entropy(s, y) + 0.9 * hinton_kd_loss(s, t, 4.0),
    "pld": lambda s, t, y: pld_loss(s, t, y, 1.0),
    "pld-4": lambda s, t, y: pld_loss(s, t, y, 4.0),
    "list-mle": list_mle,
}


def run(seed: int) -> dict[str, dict[str, float]]:
    g = generator("pld", seed)
    centres = BETWEEN * torch.randn(PAIRS, 1, DIM, generator=g) + WITHIN * torch.randn(PAIRS, 2, DIM, generator=g)
    means = centres.reshape(-1, DIM).double()

    def draw(count: int) -> tuple[Tensor, Tensor, Tensor]:
        y = torch.arange(count) % len(means)
        x = means[y] + torch.randn(count, DIM, generator=g, dtype=torch.float64)
        t = -0.5 * torch.cdist(x, means).square()  # the log posterior but for a constant
        return x, y, t + TEACHER_NOISE * torch.randn(t.shape, generator=g, dtype=torch.float64)

    train, test = draw(LABELLED), draw(TEST)
    scores = {"teacher": scored(test[2], test)}
    for arm, loss in LOSSES.items():
        scores[arm] = scored(student(*train, loss)(test[0]), test)
    return scores


def student(x: Tensor, y: Tensor, teacher: Tensor, loss: Loss) -> Callable[[Tensor], Tensor]:
    """A linear classifier at the minimum of loss + PENALTY |W|^2, which is convex."""
    weights = torch.zeros(x.shape[1] + 1, teacher.shape[1], dtype=x.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=300, tolerance_grad=1e-6, line_search_fn="strong_wolfe")

    def logits(at: Tensor) -> Tensor:
        return at @ weights[1:] + weights[0]

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(logits(x), teacher, y) + PENALTY * weights[1:].square().sum()
        value.backward()
        return value

    optimizer.step(closure)
    return lambda at: logits(at).detach()


def scored(logits: Tensor, test: tuple[Tensor, Tensor, Tensor]) -> dict[str, float]:
    _, y, teacher = test
    taus = [kendalltau(a, b).statistic for a, b in zip(logits[:RANKED].numpy(), teacher[:RANKED].numpy())]
    return {
        "accuracy": float((logits.argmax(1) == y).double().mean()),
        "rank": float(np.mean(taus)),
        "ece": calibration_error(logits.softmax(1), y),
    }


def calibration_error(probabilities: Tensor, labels: Tensor, bins: int = 15) -> float:
    """Expected calibration error: |accuracy - confidence| of equally wide bins of confidence, by their size."""
    confidence, predicted = probabilities.max(1)
    gap = (predicted == labels).to(confidence.dtype) - confidence
    sums = torch.zeros(bins, dtype=gap.dtype).scatter_add_(0, (confidence * bins).long().clamp(max=bins - 1), gap)
    return float(sums.abs().sum() / len(labels))


CLAIM = SmallClaim(
    setting=(
        f"*Setting:* {2 * PAIRS} Gaussian classes in {PAIRS} confusable pairs in {DIM} dimensions, {LABELLED} labelled "
        f"samples, {TEST} test samples. The teacher's logits are the true log posterior with noise of sd "
        f"{TEACHER_NOISE}. The student is linear, trained to the minimum of each (convex) loss with the same small "
        f"penalty on its weights. Hinton: 0.1 CE + 0.9 T² KL, T = 4. Rank agreement: Kendall's tau between the logits "
        f"of student and teacher, over {RANKED} test samples. The paper's experiments are CIFAR-100, ImageNet and COCO."
    ),
    arms={
        "teacher": "",
        "cross-entropy": "labels alone",
        "hinton": "labels and softened teacher",
        "pld": "teacher temperature 1",
        "pld-4": "teacher temperature 4",
        "list-mle": "PLD with equal weights",
    },
    metrics={
        "accuracy": "test accuracy",
        "rank": "rank agreement with the teacher",
        "ece": "expected calibration error",
    },
    lower=frozenset({"ece"}),
    statements=(
        Statement("pld", "cross-entropy", "accuracy"),
        Statement("pld", "cross-entropy", "rank"),
        Statement("pld", "hinton", "accuracy"),
        Statement("pld-4", "hinton", "accuracy", claimed=False),
        Statement("pld", "list-mle", "accuracy", claimed=False),
        Statement("pld", "hinton", "ece", claimed=False),
    ),
    run=run,
    seeds=10,
)
