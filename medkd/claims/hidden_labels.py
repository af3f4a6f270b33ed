"""How good pseudo-labels are over time, by labels that training never sees.

A dataset folder may hold labels of unlabelled training cases, for diagnosis only. They are read here, at every
validation, and scored under a name of their own: the checkpoint is chosen by `dice`, which they do not enter.
"""

from __future__ import annotations

import time

import torch
from torch import Tensor, nn

from medkd.data.components import largest_component
from medkd.data.preprocess import prepare_label, prepare_scan
from medkd.imaging.nifti import read_nifti
from medkd.inference.windows import predict_logits
from medkd.runs.tasks.protocol import Setup
from medkd.runs.tasks.segmentation import SegmentationSetup
from medkd.segmentation.task import volume_dice

CASES = 12  # spread over the unlabelled training cases: enough for a curve, quick enough for every validation


class HiddenLabels:
    """The task of `setup`, whose evaluation also gives `hidden_dice`: Dice of a network's pseudo-labels (argmax,
    largest component) on a fixed few of the unlabelled cases, mean over classes and cases. It predicts in evaluation
    mode: a teacher that teaches in training mode (batch statistics, dropout) may teach other labels. Arms with the
    same unlabelled cases can be compared.
    `hidden_seconds` and `hidden_cpu_seconds` are what that took."""

    def __init__(self, setup: Setup):
        assert isinstance(setup, SegmentationSetup)
        self.task, self.primary = setup.task, setup.task.primary
        hidden = [c for c in setup.dataset.select("train", labelled=False) if c.label]
        options, self.patch, self.device = setup.recipe.preprocess, setup.recipe.preprocess.patch, setup.runtime.device
        self.volumes: list[tuple[Tensor, Tensor]] = []
        for case in hidden[:: max(1, len(hidden) // CASES)][:CASES]:
            assert case.label is not None
            image, _ = prepare_scan([read_nifti(path) for path in case.images], options)
            self.volumes.append((image, prepare_label(read_nifti(case.label), options)))
        self.classes = len(setup.dataset.classes)

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        return self.task.supervised_loss(output, label)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        scores = self.task.evaluate(network, limit)
        if limit is not None or not self.volumes:
            return scores
        started, cpu = time.perf_counter(), time.process_time()
        dice = []
        for image, label in self.volumes:
            predicted = predict_logits(network, image, self.patch, self.device).argmax(1)
            pseudo = largest_component(predicted, self.classes)
            dice.append(volume_dice(pseudo, label.to(self.device), self.classes))
        mean = float(torch.stack(dice).nanmean(0).nan_to_num(0.0).mean())
        took = {"hidden_seconds": time.perf_counter() - started, "hidden_cpu_seconds": time.process_time() - cpu}
        return {**scores, "hidden_dice": mean, **took}
