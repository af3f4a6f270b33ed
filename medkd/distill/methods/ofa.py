"""OFA-KD (Hao et al., NeurIPS 2023, arXiv 2310.19444): a teacher of another architecture family.

The task's loss on the student, the adapted distillation loss on its final logits and on the logits of an exit at each
stage. The exits are in the checkpoint, and in no candidate: what ships is the plain student.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from medkd.distill.losses.ofa import OFALoss
from medkd.distill.methods.forward import dry_image, main_logits, tapped, teacher_logits
from medkd.distill.methods.ofa_exits import OfaExits, dry_shapes
from medkd.distill.ofa_options import OfaOptions
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.teachers import constant
from medkd.errors import InputError
from medkd.networks.build import encoder_levels


class OneForAll(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module, teacher: nn.Module, options: OfaOptions):
        super().__init__()
        self.student, self.teacher, self.options = student, constant(teacher), options
        taps = options.taps or tuple(encoder_levels(student))
        if not taps:
            raise InputError(f"the encoder levels of {type(student).__name__} are not known; name modules in ofa.taps")
        shapes, logits = dry_shapes(student, taps, dry_image(student, options.input_size, side=32))
        self.exits = OfaExits(shapes, options.classes, options.width, dense=len(logits) > 2)
        self.loss = OFALoss(options.gamma, options.temperature, options.form, options.kd_weight, options.exit_weight)
        self.loss.gammas_for(len(taps))

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return [*super().trainable(turn), *self.exits.parameters()]

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x = batch["labelled"]
        # 1. The teacher's logits; none of its features.
        teacher = teacher_logits(self.teacher, x)
        # 2. The student's final logits, and those of its exits.
        with tapped(self.student, self.exits.paths) as features:
            output = self.student(x.image)
        logits = main_logits(output, x.image)
        self.check(teacher, logits)
        exits = self.exits(features, logits.shape[2:])
        # 3. The task's loss, and the teacher's with its target class enhanced.
        labelled = ctx.task.supervised_loss(output, x.labels)
        enhanced = self.loss(logits, teacher, x.labels, exits)
        return StepOutput(labelled + enhanced, {"loss_labelled": labelled.detach(), "loss_ofa": enhanced.detach()})

    def check(self, teacher: Tensor, student: Tensor) -> None:
        for who, logits in (("teacher", teacher), ("student", student)):
            if logits.shape[1] != self.options.classes:
                raise InputError(
                    f"ofa.classes is {self.options.classes}, but the {who} tells {logits.shape[1]} classes apart; "
                    "both must be those of the dataset"
                )
