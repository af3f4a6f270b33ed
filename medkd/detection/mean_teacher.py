"""Source-free self-training of a detector (card sfod_baselines.md, B4; grounded_teacher.md 3.6): the baseline, and the
frame that Grounded Teacher fills.

The student and its moving average both start from the source model. The teacher, in eval mode, labels weak views; the
student learns on the strong views of the same place. Labels of the frozen source model may help at first. One forward
of the backbone; every set of labels has assignments of its own. Neither source images nor any label are read.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from medkd.data.targets import Detections, Target
from medkd.detection.detectors.protocol import DetectorLosses, RoIs
from medkd.detection.pseudo_labels import as_target, confident
from medkd.detection.source_free_options import SourceFreeOptions
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.teachers import EmaTeacher, FrozenTeacher, blend


@dataclass(frozen=True)
class LabelSet:
    """Labels of one origin for a batch: one target an image, or None where it has no say. weight: of its losses."""

    source: str
    weight: float
    targets: Sequence[Target | None]


class MeanTeacherDetector(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("unlabelled",)}

    def __init__(self, student: nn.Module, options: SourceFreeOptions):
        super().__init__()
        self.student, self.options = student, options
        copy_at = options.burn_in // options.every if options.burn_in else None  # counted in updates of the average
        self.teacher = EmaTeacher(student, options.decay, options.warmup, "blend", "eval", copy_at)
        self.source = FrozenTeacher(copy.deepcopy(student), stored=True) if options.static.weight else None

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        unlabelled = batch["unlabelled"]
        # 1. Labels, on the weak view: of the teacher, of the source model while it counts, of an expert.
        sets = self.label_sets(unlabelled, ctx)
        # 2. The strong view of the same place; its boxes are those of the weak one.
        images, sets = self.strong_view(unlabelled, sets, ctx)
        # 3. One forward of the student's backbone, the losses of every set and what a method adds.
        found, added = self.losses(images, sets, ctx)
        loss = sum((s.weight * losses.total() for s, losses in zip(sets, found)), images.new_zeros(()))
        loss = sum(added.values(), loss)
        logs = {f"loss_{name}": value.detach() for name, value in added.items()}
        for s, losses in zip(sets, found):
            logs[f"loss_{s.source}"] = losses.total().detach()
            logs[f"boxes_{s.source}"] = torch.tensor(
                float(sum(len(t) for t in s.targets if t is not None)) / len(images)
            )
        return StepOutput(loss, logs)

    def losses(
        self, images: Tensor, sets: list[LabelSet], ctx: StepContext
    ) -> tuple[list[DetectorLosses], dict[str, Tensor]]:
        """The student's losses of every set of labels, and further ones by name."""
        detector: Any = self.student
        targets = [s.targets for s in sets]
        return detector.losses(images, targets, lambda r, number: self.classification(r, sets[number], ctx)), {}

    def label_sets(self, batch: Batch, ctx: StepContext) -> list[LabelSet]:
        """The teacher's after the burn-in, the source model's while their weight is not 0."""
        o, sets = self.options, []
        if o.teacher_weight and ctx.step >= o.burn_in:
            sets += self.live_sets(self.sure(self.teacher, o.threshold, batch.image), batch)
        weight = self.static_weight(ctx)
        if self.source is not None and weight:
            sets.append(self.label_set("static", weight, self.sure(self.source, o.static.threshold, batch.image)))
        return sets

    def live_sets(self, teacher: list[Detections], batch: Batch) -> list[LabelSet]:
        """What the teacher's detections become."""
        return [self.label_set("teacher", self.options.teacher_weight, teacher, self.options.regress)]

    def label_set(
        self, source: str, weight: float, found: Sequence[Detections | None], regress: bool = False
    ) -> LabelSet:
        """Boxes that are not trusted in their place train no regression."""
        empty = self.options.empty
        return LabelSet(source, weight, [None if d is None else as_target(d, source, regress, empty) for d in found])

    @torch.no_grad()
    def sure(self, teacher: EmaTeacher | FrozenTeacher, threshold: float, images: Tensor) -> list[Detections]:
        """What a network in eval mode is sure of."""
        network: Any = teacher.network
        return [confident(d, threshold) for d in network.predict(images, min(0.05, threshold))]

    def strong_view(self, batch: Batch, sets: list[LabelSet], ctx: StepContext) -> tuple[Tensor, list[LabelSet]]:
        return batch.view["strong"], sets

    def classification(self, rois: RoIs, labels: LabelSet, ctx: StepContext) -> Tensor:
        return rois.mean()

    def static_weight(self, ctx: StepContext) -> float:
        """Half a cosine from `weight` to 0; in the burn-in it stays at `weight`."""
        o = self.options.static
        if math.isinf(o.until) or ctx.step < self.options.burn_in:
            return o.weight
        done = min(1.0, ctx.step / (o.until * ctx.total))
        return o.weight * 0.5 * (1 + math.cos(math.pi * done)) if done < 1 else 0.0

    def after_step(self, ctx: StepContext) -> None:
        o = self.options
        if (ctx.step + 1) % o.every == 0:
            self.teacher.update(self.student)
        if o.pull_back and (ctx.step + 1) % o.period == 0:
            blend(list(self.student.parameters()), list(self.teacher.network.parameters()), 1 - o.pull_back)

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student, "teacher": self.teacher.network}


def replaced(labels: LabelSet, targets: Sequence[Target]) -> LabelSet:
    """The set with other targets for the images that have one."""
    return replace(labels, targets=[None if old is None else new for old, new in zip(labels.targets, targets)])
