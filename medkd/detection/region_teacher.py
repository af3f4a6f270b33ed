"""What baselines share that compare student and teacher region by region: one forward of each network a step."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medkd.data.targets import Detections
from medkd.detection.detectors.protocol import DetectorLosses, Scene, two_stage
from medkd.detection.mean_teacher import LabelSet, MeanTeacherDetector
from medkd.detection.pseudo_labels import confident
from medkd.detection.source_free_options import SourceFreeOptions
from medkd.engine.method import StepContext
from medkd.engine.teachers import EmaTeacher, FrozenTeacher


@dataclass(frozen=True)
class Taught:
    """What the teacher saw of a batch of weak views: its scene, and the detections it is sure of."""

    scene: Scene
    sure: list[Detections]


class RegionTeacher(MeanTeacherDetector):
    """A mean teacher with further losses, `terms`, on the teacher's proposals. Raises InputError for a one-stage
    detector."""

    terms: tuple[str, ...]

    def __init__(self, student: nn.Module, options: SourceFreeOptions):
        super().__init__(student, options)
        two_stage(student)
        self.taught: Taught | None = None  # of this micro-batch

    @torch.no_grad()
    def sure(self, teacher: EmaTeacher | FrozenTeacher, threshold: float, images: Tensor) -> list[Detections]:
        if teacher is not self.teacher:
            return super().sure(teacher, threshold, images)
        scene = two_stage(teacher.network).scene(images)
        found = [confident(d, threshold) for d in scene.detections(min(0.05, threshold))]
        self.taught = Taught(scene, found)
        return found

    def losses(
        self, images: Tensor, sets: list[LabelSet], ctx: StepContext
    ) -> tuple[list[DetectorLosses], dict[str, Tensor]]:
        """Those of every set of labels, and those of the regions; the student's backbone runs once."""
        scene = two_stage(self.student).scene(images)
        found = scene.losses(
            [s.targets for s in sets], lambda rois, number: self.classification(rois, sets[number], ctx)
        )
        taught, self.taught = self.taught, None
        if taught is None:  # the burn-in
            return found, {}
        if not sum(map(len, taught.scene.proposals)):
            return found, dict.fromkeys(self.terms, images.new_zeros(()))  # every rank has the same terms
        with torch.autocast(images.device.type, enabled=False):
            return found, self.region_losses(scene, taught)

    @abstractmethod
    def region_losses(self, student: Scene, taught: Taught) -> dict[str, Tensor]:
        """The terms by name, on the teacher's proposals, of which there is at least one; no gradient reaches the
        teacher."""
