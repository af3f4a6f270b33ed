"""The memory banks of contrastive losses: which row is whose, what negatives a step draws, and when rows move.

A row belongs to a labelled training image, in the order of their ids. Rows move after a real optimiser step alone, to
the embeddings of the images of all its micro-batches and processes; the banks themselves are buffers of the losses.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from medkd.engine.method import Batch, StepContext
from medkd.errors import InputError


class Banks:
    """The bookkeeping of one method. It holds nothing that a checkpoint would need."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.step = -1
        self.seen: dict[int, list[tuple[Tensor, Tensor, Tensor]]] = {}

    def of(self, classes: Mapping[str, int]) -> Tensor:
        """(N,) the class of each row, from that of each image by its id."""
        self.rows = {case: row for row, case in enumerate(sorted(classes))}
        return torch.tensor([classes[case] for case in self.rows])

    def loss(self, number: int, loss: Any, student: Tensor, teacher: Tensor, x: Batch, ctx: StepContext) -> Tensor:
        """The loss of a micro-batch; remembers its images for `update`."""
        if ctx.global_step != self.step:  # a skipped step leaves its images behind
            self.step, self.seen = ctx.global_step, {}
        if missing := [case for case in x.case_ids if case not in self.rows]:
            raise InputError(f"{', '.join(missing)} had no place in the memory bank when training began")
        index = torch.tensor([self.rows[case] for case in x.case_ids]).to(student.device, non_blocking=True)
        negatives = loss.negatives(index, x.draws.uniform(f"negatives {number}", len(self.rows)))
        self.seen.setdefault(number, []).append((student.detach(), teacher.detach(), index))
        value: Tensor = loss(student, teacher, index, negatives)
        return value

    def update(self, losses: nn.ModuleList, ctx: StepContext) -> None:
        """Move the rows of the step's images, the same on every rank."""
        for number, parts in self.seen.items():
            student, teacher, index = (torch.cat(column) for column in zip(*parts))
            total = len(index) * ctx.runtime.world
            rows: Any = (ctx.runtime.gather(t, total) for t in (student, teacher, index))
            bank: Any = losses[number]
            bank.update(*rows)
        self.seen = {}
