"""Uncertainty-aware Mean Teacher (Yu et al., MICCAI 2019, arXiv 1907.07034), card 3.6.

Mean Teacher whose consistency counts only where the teacher is certain: where the entropy of its mean prediction over
several passes, each with fresh noise and dropout, is below a threshold that rises during training.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from medkd.engine.method import Batch, StepContext
from medkd.engine.schedules import sigmoid_ramp
from medkd.segmentation.mean_teacher import MeanTeacher, noisy
from medkd.segmentation.options import UaMtOptions


class UncertaintyAwareMeanTeacher(MeanTeacher):
    """The target of the consistency is one noisy pass more, as in Mean Teacher; `step` is Mean Teacher's."""

    options: UaMtOptions

    def consistency(
        self, student: Tensor, target: Tensor, unlabelled: Batch, ctx: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        classes = 2 if self.options.two_class_entropy else student.shape[1]
        uncertainty = entropy(self.mean_prediction(unlabelled))
        certain = (uncertainty < entropy_threshold(classes, ctx.step, ctx.total)).to(student.dtype)
        count = ctx.global_mean(certain.sum())  # the mean of the ranks' losses is then the whole batch's
        loss = certain_squared_difference(student, target, certain, classes, count)
        return loss, {"certain": certain.mean()}

    def mean_prediction(self, unlabelled: Batch) -> Tensor:
        """(B, K, *S): the mean of `passes` noisy teacher passes, two in one forward as published."""
        sums = []
        for first in range(0, self.options.passes, 2):
            pair = [noisy(unlabelled, f"uncertainty_{i}", self.options.noise) for i in (first, first + 1)]
            one, other = self.teacher_probabilities(torch.cat(pair)).chunk(2)
            sums.append(one + other)
        return torch.stack(sums).sum(0) / self.options.passes


def entropy(probabilities: Tensor) -> Tensor:
    """-sum_c p ln(p + 1e-6): (B, K, *S) to (B, *S), in nats.

    >>> [round(v, 6) for v in entropy(torch.tensor([[0.9, 0.1], [0.6, 0.4]])).tolist()]
    [0.325081, 0.67301]
    """
    return -(probabilities * (probabilities + 1e-6).log()).sum(1)


def entropy_threshold(classes: int, step: int, total: int) -> float:
    """(0.75 + 0.25 * ramp) * ln(classes): the greatest entropy of a certain pixel after `step` of `total` updates.

    >>> [round(entropy_threshold(2, step, 4), 6) for step in range(5)]
    [0.521028, 0.530267, 0.569508, 0.64664, 0.693147]
    """
    return (0.75 + 0.25 * sigmoid_ramp(step, total)) * math.log(classes)


def certain_squared_difference(
    student: Tensor, target: Tensor, certain: Tensor, classes: int, count: Tensor | None = None
) -> Tensor:
    """sum(certain * (student - target)^2) / (classes * count); zero, attached to the graph, if none is certain.

    count: the number of certain pixels, if it is not that of `certain`.
    Shape: student and target (B, K, *S), certain (B, *S) of 0 and 1.
    """
    if student.shape != target.shape or certain.shape != student[:, 0].shape:
        raise ValueError(
            f"student {tuple(student.shape)}, target {tuple(target.shape)} and certain {tuple(certain.shape)} must be "
            "(B, K, *S), (B, K, *S) and (B, *S)"
        )
    return (certain[:, None] * (student - target).square()).sum() / (
        classes * (certain.sum() if count is None else count) + 1e-16
    )
