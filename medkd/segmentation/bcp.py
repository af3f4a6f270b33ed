"""Bidirectional Copy-Paste (Bai et al., CVPR 2023, arXiv 2305.00673), 2-D and 3-D.

Stage 1 (LabelledCopyPaste) trains the student on pairs of labelled images pasted into each other. Stage 2
(BidirectionalCopyPaste) never shows it a purely labelled or unlabelled image: every training image is a composite of
one of each, supervised by the same composite of ground truth and of the teacher's cleaned pseudo-label.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from medkd.data.components import largest_component
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.teachers import EmaTeacher
from medkd.segmentation.losses import region_dice_ce
from medkd.segmentation.mixing import PasteMask, halves, paste
from medkd.segmentation.options import BcpOptions, LabelledCopyPasteOptions


class LabelledCopyPaste(Method):
    """Stage 1 (card 3.2), and the baseline of that name: labelled images pasted into labelled images."""

    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, options: LabelledCopyPasteOptions):
        super().__init__()
        self.student, self.options = student, options
        self.mask = PasteMask(options.beta, options.mask, options.inclusive_end)

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        (x_a, x_b), (y_a, y_b) = halves(batch["labelled"].image), halves(batch["labelled"].labels)
        mask = self.mask(tuple(y_a.shape[1:]), ctx.generator("mask")).to(x_a.device)
        image, label = paste(x_a, x_b, mask), paste(y_a, y_b, mask)
        if self.options.both_directions:
            image, label = torch.cat([image, paste(x_b, x_a, mask)]), torch.cat([label, paste(y_b, y_a, mask)])
        if self.options.regional:
            return StepOutput(region_dice_ce(self.student(image), label, mask, 1.0, 1.0, self.options.dice))
        return StepOutput(ctx.task.supervised_loss(self.student(image), label))


class BidirectionalCopyPaste(Method):
    """Stage 2 (card 3.3)."""

    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled", "unlabelled")}

    def __init__(self, student: nn.Module, options: BcpOptions):
        super().__init__()
        self.student, self.options = student, options
        teacher = options.teacher
        self.teacher = EmaTeacher(student, teacher.decay, teacher.warmup, teacher.buffers, teacher.mode)
        self.mask = PasteMask(options.beta, options.mask, options.inclusive_end)

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        o = self.options
        (x_a, x_b), (y_a, y_b) = halves(batch["labelled"].image), halves(batch["labelled"].labels)
        u_a, u_b = halves(batch["unlabelled"].image)
        p_a, p_b = pseudo_labels(self.teacher, [u_a, u_b], o.components, o.connectivity, o.joint_forward)
        mask = self.mask(tuple(y_a.shape[1:]), ctx.generator("mask")).to(x_a.device)

        # out: a labelled patch in an unlabelled host. in: an unlabelled patch in a labelled host.
        out_image, out_label = paste(u_a, x_a, mask), paste(p_a, y_a, mask)
        in_image, in_label = paste(x_b, u_b, mask), paste(y_b, p_b, mask)
        out_logits, in_logits = forward_parts(self.student, [out_image, in_image], o.joint_forward)

        out_loss = region_dice_ce(out_logits, out_label, mask, o.pseudo_weight, 1.0, o.dice)
        in_loss = region_dice_ce(in_logits, in_label, mask, 1.0, o.pseudo_weight, o.dice)
        pseudo = torch.cat([p_a, p_b])
        logs = {"loss_out": out_loss.detach(), "loss_in": in_loss.detach(), "pseudo_foreground": foreground(pseudo)}
        return StepOutput(out_loss + in_loss, logs)

    def after_step(self, ctx: StepContext) -> None:
        self.teacher.update(self.student)

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher.network}


def forward_parts(network: nn.Module, parts: list[Tensor], joint: bool) -> list[Tensor]:
    """Outputs of a network for several batches: one by one (batch statistics of each), or joint in one forward."""
    if joint:
        return list(network(torch.cat(parts)).split([len(part) for part in parts]))
    return [network(part) for part in parts]


@torch.no_grad()
def pseudo_labels(
    teacher: EmaTeacher, parts: list[Tensor], components: bool, connectivity: int | None, joint: bool
) -> list[Tensor]:
    """Hard labels (B, *S) int64 of unlabelled images; if wanted, the largest component of each class (card 3.7)."""
    logits = torch.cat(forward_parts(teacher, parts, joint)).float()
    label = logits.argmax(1)
    if components:
        label = largest_component(label, logits.shape[1], connectivity)
    return list(label.split([len(part) for part in parts]))


def foreground(label: Tensor) -> Tensor:
    """Share of pixels that are not background."""
    return (label > 0).float().mean()
