"""PETS (sfod_baselines.md, B9): a static and a moving teacher; static teacher and student change places.

    labels    = fusion of what both teachers find on the weak view, then the threshold: a box that one alone finds keeps
                half of its score
    each step = the moving teacher averages the student
    each period, before that: the weights of the static teacher and of the student are exchanged

The optimiser's momenta stay with the student's place. Ship the teacher: just after an exchange the student is what was
static. The card knows the method from memory; no code was published.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from medkd.data.targets import Detections
from medkd.detection.baseline_options import PetsOptions
from medkd.detection.mean_teacher import MeanTeacherDetector
from medkd.detection.pseudo_labels import confident, fused
from medkd.engine.method import StepContext
from medkd.engine.teachers import EmaTeacher, FrozenTeacher

LEAST = 0.05  # score of what is fused


class Pets(MeanTeacherDetector):
    options: PetsOptions

    def __init__(self, student: nn.Module, options: PetsOptions):
        super().__init__(student, options)
        self.static = FrozenTeacher(copy.deepcopy(student), stored=True)  # between two exchanges

    @torch.no_grad()
    def sure(self, teacher: EmaTeacher | FrozenTeacher, threshold: float, images: Tensor) -> list[Detections]:
        if teacher is not self.teacher:
            return super().sure(teacher, threshold, images)
        networks: list[Any] = [self.teacher.network, self.static.network]
        pairs = zip(*(network.predict(images, min(LEAST, threshold)) for network in networks))
        return [confident(fused(moving, static, "weighted"), threshold) for moving, static in pairs]

    def after_step(self, ctx: StepContext) -> None:
        if (ctx.step + 1) % self.options.period == 0:
            exchange(self.student, self.static.network)
        super().after_step(ctx)


@torch.no_grad()
def exchange(one: nn.Module, other: nn.Module) -> None:
    """Swap the parameters and buffers of two networks of one kind, in place."""
    for a, b in zip(
        [*one.parameters(), *one.buffers()], [*other.parameters(), *other.buffers()], strict=True
    ):  # fmt: skip
        kept = a.clone()
        a.copy_(b)
        b.copy_(kept)
