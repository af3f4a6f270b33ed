"""Mean Teacher (Tarvainen and Valpola, NeurIPS 2017, arXiv 1703.01780), the 2-D segmentation recipe (card 3.5).

The student must predict on a clean unlabelled image what its moving average predicts on a noisy one.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.schedules import sigmoid_ramp
from medkd.engine.teachers import EmaTeacher
from medkd.engine.tensors import at_least_float32
from medkd.segmentation.losses import full_resolution
from medkd.segmentation.options import MeanTeacherOptions

STAIRS = 200  # the published ramp rises every 150 updates, 200 times


class MeanTeacher(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled", "unlabelled")}

    def __init__(self, student: nn.Module, options: MeanTeacherOptions):
        super().__init__()
        self.student, self.options = student, options
        teacher = options.teacher
        self.teacher = EmaTeacher(student, teacher.decay, teacher.warmup, teacher.buffers, teacher.mode)

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x, u = batch["labelled"], batch["unlabelled"]
        # 1. One forward of the student on the clean labelled and unlabelled images; the teacher alone sees noise.
        x_output, u_output = self.student(torch.cat([x.image, u.image])).split([len(x), len(u)])
        target = self.teacher_probabilities(noisy(u, "noise", self.options.noise))

        # 2. Supervised loss + ramped weight * consistency.
        labelled_loss = ctx.task.supervised_loss(x_output, x.labels)
        consistency, logs = self.consistency(class_probabilities(u_output, u.image), target, u, ctx)
        weight = self.weight(ctx)
        logs = {
            "loss_labelled": labelled_loss.detach(),
            "loss_consistency": consistency.detach(),
            "weight": torch.tensor(weight),
            **logs,
        }
        return StepOutput(labelled_loss + weight * consistency, logs)

    def consistency(
        self, student: Tensor, target: Tensor, unlabelled: Batch, ctx: StepContext
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Squared difference of probabilities (B, K, *S), the mean over samples, classes and pixels; and its logs."""
        return (student - target).square().mean(), {}

    def weight(self, ctx: StepContext) -> float:
        """Zero until `start`, then the ramp, which runs from the first update on."""
        o = self.options
        return 0.0 if ctx.step < round(o.start * ctx.total) else ramped(o.weight, o.ramp, ctx)

    def teacher_probabilities(self, image: Tensor) -> Tensor:
        """(B, K, *S) float32, no gradient."""
        return class_probabilities(self.teacher(image), image)

    def after_step(self, ctx: StepContext) -> None:
        self.teacher.update(self.student)  # 3. warm-up: the first update copies the student

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher.network}


def noisy(batch: Batch, name: str, sd: float) -> Tensor:
    """The images plus Gaussian noise clipped at two standard deviations, keyed to the sample."""
    return batch.image + (sd * batch.draws.normal(name, batch.image)).clamp(-2 * sd, 2 * sd)


def class_probabilities(output: Tensor, image: Tensor) -> Tensor:
    """Softmax in float32 at least of a network's full-resolution output, (B, K, *S)."""
    return at_least_float32(full_resolution(output, image)).softmax(1)


def ramped(weight: float, share: float, ctx: StepContext) -> float:
    """weight * exp(-5 (1 - t)^2) where t rises from 0 to 1 over the first `share` of the phase, in 200 stairs.

    Of 30,000 updates and share 1 this is the published 0.1 * ramp(it // 150, 200).
    """
    length = share * ctx.total
    return weight * (sigmoid_ramp(int(ctx.step * STAIRS / length), STAIRS) if length else 1.0)
