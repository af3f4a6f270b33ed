"""Grounded Teacher (Ashraf et al., arXiv 2504.15404; card grounded_teacher.md 3.6, the form it must have to be what the
paper says).

Mean-teacher self-training of a detector in which a running matrix of class confusions (RelationalContext) weights the
classification loss and chooses which crops are mixed into which boxes, and in which an expert's boxes stand BESIDE the
teacher's as a set of their own. Two matrices: the source's, shipped with the source model or learnt from its static
labels, and the target's, which takes over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from medkd.data.targets import Detections, Target
from medkd.detection.crops import CropBank, overlap
from medkd.detection.detectors.protocol import RoIs
from medkd.detection.experts import ExpertLabels
from medkd.detection.mean_teacher import LabelSet, MeanTeacherDetector, replaced
from medkd.detection.pseudo_labels import chosen, confident, fused, joined
from medkd.detection.relation_file import read_matrix
from medkd.detection.relation_mix import SAME_OBJECT, RelationMix
from medkd.detection.relational import RelationalContext, blended
from medkd.detection.semantic_loss import semantic_weights
from medkd.detection.source_free_options import GroundedTeacherOptions
from medkd.engine.method import Batch, StepContext, StepOutput

LOGGED = 6  # classes up to which the log holds the matrix


class GroundedTeacher(MeanTeacherDetector):
    options: GroundedTeacherOptions

    def __init__(self, student: nn.Module, options: GroundedTeacherOptions):
        super().__init__(student, options)
        o, classes = options, int(student.classes)  # type: ignore[arg-type]
        self.expert = expert_of(o)
        self.contexts = nn.ModuleDict(
            {name: RelationalContext(classes, o.momentum, o.context_warmup, o.include_background)
             for name in ("source", "target")}
        )  # fmt: skip
        if o.source_matrix:
            context = self.context("source")
            context.start_from(read_matrix(Path(o.source_matrix), tuple(context.average.shape)))
        channels, sides = int(student.channels), [o.crop_side] * int(student.dims)  # type: ignore[arg-type]
        self.banks = nn.ModuleDict({name: CropBank(classes, channels, sides, o.bank) for name in ("source", "target")})
        self.mix = RelationMix(o.mixing)
        self.seen: list[tuple[str, Tensor, list[Target]]] = []  # what the banks get crops from after this iteration
        self.seen_at = -1

    def context(self, name: str) -> RelationalContext:
        found = self.contexts[name]
        assert isinstance(found, RelationalContext)
        return found

    def matrix(self, labels: str, ctx: StepContext) -> Tensor:
        """Static labels meet the source's matrix; the others a blend that passes to the target's."""
        source = self.context("source").matrix()
        if labels == "static":
            return source
        return blended(source, self.context("target").matrix(), ctx.step, round(self.options.blend * ctx.total))

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        """As the mean teacher's; the log also holds `context_I_J`, the matrix that the teacher's labels met."""
        output = super().step(turn, batch, ctx)
        matrix = self.matrix("teacher", ctx)
        if len(matrix) > LOGGED:
            return output
        context = {f"context_{i}_{j}": v for i, row in enumerate(matrix.unbind()) for j, v in enumerate(row.unbind())}
        return replace(output, logs={**output.logs, **context})

    def live_sets(self, teacher: list[Detections], batch: Batch) -> list[LabelSet]:
        """The teacher's and the expert's, two sets unless they are to be fused. Where the expert has no opinion the
        teacher's labels stand alone."""
        o, sets = self.options.expert, super().live_sets(teacher, batch)
        if o is None or self.expert is None:
            return sets
        frame = tuple(batch.image.shape[2:])
        views = [self.expert.in_view(c, m, frame) for c, m in zip(batch.case_ids, batch.view["matrix"])]
        found = [None if v is None else confident(v, o.threshold) for v in views]
        if o.fusion == "separate":
            found = [None if e is None else self.completed(e, t) for e, t in zip(found, teacher)]
            return [*sets, self.label_set("expert", o.weight, found, o.regress)]
        both = [mine if theirs is None else fused(mine, theirs, o.fusion) for mine, theirs in zip(teacher, found)]
        return super().live_sets(both, batch)

    def completed(self, expert: Detections, teacher: Detections) -> Detections:
        """The expert's boxes, and for the classes it does not look for the teacher's that are no object of the
        expert's: without them, its set would teach these objects as background."""
        o = self.options.expert
        assert o
        if o.covers is None:
            return expert
        covered = torch.tensor([name in o.covers for name in o.classes], device=teacher.labels.device)
        free = ~covered[teacher.labels]
        if len(expert):
            free &= (overlap(teacher.boxes, expert.boxes) < SAME_OBJECT).all(1)
        return joined(chosen(expert, covered[expert.labels]), chosen(teacher, free))

    def strong_view(self, batch: Batch, sets: list[LabelSet], ctx: StepContext) -> tuple[Tensor, list[LabelSet]]:
        """Crops of confusable classes mixed into the strong view. While static labels count, the labelled stream's rule
        holds, in which rare classes are mixed too; then the unlabelled stream's."""
        images = batch.view["strong"]
        if not self.options.mixing:
            return images, sets
        filled = [[nothing(images) if t is None else t for t in s.targets] for s in sets]
        if self.seen_at != ctx.step:  # the iteration before may have been skipped
            self.seen_at = ctx.step
            self.seen.clear()
        kept = {"static": "source", "teacher": "target"}
        self.seen += [(kept[s.source], batch.image, list(t)) for s, t in zip(sets, filled) if s.source in kept]
        if not sets:
            return images, sets
        static = any(s.source == "static" for s in sets)
        matrix = self.matrix("static" if static else "teacher", ctx)
        source, target = self.banks["source"], self.banks["target"]
        assert isinstance(source, CropBank)
        assert isinstance(target, CropBank)
        with torch.autocast(images.device.type, enabled=False):  # the banks are float16 whatever the precision
            mixed, new = self.mix(images, filled, matrix, source, target, batch.draws, not static)
        return mixed, [replaced(s, t) for s, t in zip(sets, new)]

    def classification(self, rois: RoIs, labels: LabelSet, ctx: StepContext) -> Tensor:
        """The semantic-aware loss, and the counts of the same regions for the context of these labels."""
        predicted = rois.logits.detach().argmax(1)
        self.context("source" if labels.source == "static" else "target").observe(rois.gt, predicted, ctx)
        o = self.options
        return rois.mean(
            semantic_weights(
                rois.gt, predicted, self.matrix(labels.source, ctx), o.lam, o.semantic_loss, ctx.global_sum
            )
        )

    def after_step(self, ctx: StepContext) -> None:
        super().after_step(ctx)
        for name in self.contexts:
            self.context(name).settle(ctx)
        for name, bank in self.banks.items():
            assert isinstance(bank, CropBank)
            crops = [bank.cut(images, targets) for kept, images, targets in self.seen if kept == name]
            if crops:  # every rank's: all of them draw from the same bank
                bank.add(*(ctx.runtime.joined(torch.cat(parts)) for parts in zip(*crops)))
        self.seen.clear()


def nothing(images: Tensor) -> Target:
    """No boxes, for an image that has no say in a set."""
    return Target(images.new_zeros(0, 2 * (images.ndim - 2)), torch.zeros(0, dtype=torch.int64, device=images.device))


def expert_of(options: GroundedTeacherOptions) -> ExpertLabels | None:
    return ExpertLabels.read(Path(options.expert.file), options.expert.classes) if options.expert else None
