"""AdaBN: the running statistics of batch normalisation estimated anew on the target's images (sfod_baselines.md, B12).

Each update takes one batch of weak views through the backbone in train mode; the statistics become the plain average
over the batches, so that after one pass each image counts the same. No weight changes and no label is read.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from medkd.detection.detectors.pyramid import BATCH_NORM, batch_norms
from medkd.engine.method import Batch, Method, StepContext, StepOutput


class AdaBN(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("unlabelled",)}

    def __init__(self, student: nn.Module):
        super().__init__()
        self.student = student
        self.idle = nn.Parameter(torch.zeros(()))  # what the optimiser has to itself
        norms = batch_norms(student)
        if not norms:
            warnings.warn("the detector has no batch normalisation: AdaBN changes nothing", stacklevel=2)
        for norm in norms:
            assert isinstance(norm, BATCH_NORM)
            norm.reset_running_stats()
            norm.momentum = None  # the plain average

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return [self.idle]

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        detector: Any = self.student
        with torch.no_grad():
            detector.feature_map(batch["unlabelled"].image)
        return StepOutput(self.idle * 0.0)
