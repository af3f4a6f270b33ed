"""Self-training with a moving-average teacher and no copy-paste: what BCP must beat (semi_supervised_baselines 3.4).

It sees the same area of ground truth and of pseudo-label an update as BCP, and equals BCP with an empty box.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.teachers import EmaTeacher
from medkd.segmentation.bcp import foreground, forward_parts, pseudo_labels
from medkd.segmentation.losses import region_dice_ce
from medkd.segmentation.mixing import halves
from medkd.segmentation.options import SelfTrainingOptions


class SelfTraining(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled", "unlabelled")}

    def __init__(self, student: nn.Module, options: SelfTrainingOptions):
        super().__init__()
        self.student, self.options = student, options
        teacher = options.teacher
        self.teacher = EmaTeacher(student, teacher.decay, teacher.warmup, teacher.buffers, teacher.mode)

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        o = self.options
        # half of each stream: as many student images as BCP has composites
        u_a, _ = halves(batch["unlabelled"].image)
        (_, x_b), (_, y_b) = halves(batch["labelled"].image), halves(batch["labelled"].labels)
        (p_a,) = pseudo_labels(self.teacher, [u_a], o.components, o.connectivity, o.joint_forward)
        u_logits, x_logits = forward_parts(self.student, [u_a, x_b], o.joint_forward)
        everywhere = torch.ones(1, *y_b.shape[1:], dtype=torch.bool, device=y_b.device)
        pseudo_loss = region_dice_ce(u_logits, p_a, everywhere, o.pseudo_weight, 0.0, o.dice)
        labelled_loss = region_dice_ce(x_logits, y_b, everywhere, 1.0, 0.0, o.dice)
        logs = {
            "loss_pseudo": pseudo_loss.detach(),
            "loss_labelled": labelled_loss.detach(),
            "pseudo_foreground": foreground(p_a),
        }
        return StepOutput(pseudo_loss + labelled_loss, logs)

    def after_step(self, ctx: StepContext) -> None:
        self.teacher.update(self.student)

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher.network}
