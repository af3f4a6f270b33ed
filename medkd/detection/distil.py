"""Distil for detectors: a small one learns from boxes and from a large one that is frozen.

Maps are compared by path, as in every task. Of two-stage detectors the classes are compared on shared regions: those
that the student sampled for its own loss, which the teacher's head reads too (Zhao et al., CVPR 2022). Of one-stage
detectors the sigmoids of all anchors are, which must then be the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from medkd.detection.detectors.protocol import RoIs
from medkd.detection.supervised import targets_of
from medkd.distill.loss_options import LOGITS
from medkd.distill.methods.compared import Found
from medkd.distill.methods.distil import Distil, Seen
from medkd.distill.methods.forward import dry, dry_image, inside, tapped, tried
from medkd.engine.method import Batch, StepContext
from medkd.engine.teachers import for_teacher
from medkd.errors import InputError


@dataclass(frozen=True)
class SeenRegions(Seen):
    """regions: where the logits are, of each image; None: at all anchors."""

    regions: Sequence[Tensor] | None = None


class DistilDetector(Distil):
    def dry_pass(self) -> tuple[Found, Found]:
        teacher: Any = inside(self.teacher)
        student: Any = self.student
        if teacher.classes != student.classes:
            raise InputError(f"the teacher finds {teacher.classes} classes, the student {student.classes}")
        mine, theirs = (
            self.tried(*side) for side in (("student", student, self.paths[0]), ("teacher", teacher, self.paths[1]))
        )
        two_stage = [found[LOGITS].ndim == 2 for found in (mine, theirs)]
        for loss in self.options.losses:
            if LOGITS not in (*loss.paths()[0], *loss.paths()[1]):
                continue
            softmax = loss.kind != "bernoulli_kd"
            if two_stage != [softmax, softmax]:
                raise InputError(
                    f"{loss.kind} compares the {'softmax of two-stage' if softmax else 'sigmoids of one-stage'} "
                    f"detectors; student and teacher are {type(student).__name__} and {type(teacher).__name__}: name "
                    f"maps of both, or use {'bernoulli_kd' if softmax else 'kd'} where both are of the other kind"
                )
            if not softmax and mine[LOGITS].shape != theirs[LOGITS].shape:
                raise InputError(
                    f"the student has {mine[LOGITS].shape[1]} anchors in an image, the teacher "
                    f"{theirs[LOGITS].shape[1]}; {loss.kind} compares them one by one: give both the same"
                )
        return mine, theirs

    def tried(self, side: str, network: nn.Module, paths: list[str]) -> Found:
        """A first forward of one side, with one region of the whole image."""
        detector: Any = network
        image = dry_image(network, (), side=self.options.dry_size)
        whole = image.new_tensor([[0.0] * (image.ndim - 2) + [float(n) for n in image.shape[:1:-1]]])
        with dry(network), tried(network, paths) as found:
            logits = detector.class_logits(image, [whole])
        return {**found, LOGITS: logits}

    def student_sees(self, x: Batch, ctx: StepContext) -> Seen:
        student: Any = self.student
        asked: list[RoIs] = []

        def keep(rois: RoIs, _number: int) -> Tensor:
            asked.append(rois)
            return rois.mean()

        with tapped(self.student, self.paths[0]) as found:
            (losses,) = student.losses(x.image, [targets_of(x)], keep)
        (rois,) = asked
        found[LOGITS] = rois.logits if rois.anchors is None else rois.anchors
        return SeenRegions(losses.total(), found, rois.gt, rois.regions)

    @torch.no_grad()
    def teacher_sees(self, x: Batch, seen: Seen) -> Found:
        teacher: Any = inside(self.teacher)
        assert isinstance(seen, SeenRegions)
        with tapped(teacher, self.paths[1]) as found:
            logits = teacher.class_logits(for_teacher(x), seen.regions)
        found[LOGITS] = logits
        return found
