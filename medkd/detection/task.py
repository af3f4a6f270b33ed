"""Detection as a task of the engine: average precision on the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from medkd.data.detection_dataset import DetectionDataset
from medkd.data.image_arrays import image_arrays
from medkd.data.image_cases import ImageCase
from medkd.data.image_options import ImagePreprocess
from medkd.data.targets import Detections
from medkd.detection.detect import batches, detections
from medkd.engine.runtime import Runtime
from medkd.metrics.boxes import MOST, average_precision
from medkd.metrics.matching import ImageBoxes, image_boxes

AT_ONCE = 8
THRESHOLD = 0.05
IOUS = {2: (0.5,), 3: (0.1,)}
"""What counts as found, by dimensions: the usual overlap (IoU); in 3-D a small shift already costs most of it."""


class DetectionTask:
    """AP50 (3-D: AP10) over the classes with a true box, in the coordinates of the original images.

    Each rank looks at its share of the images, and all get every score.
    """

    def __init__(
        self,
        dataset: DetectionDataset,
        cases: Sequence[ImageCase],
        preprocess: ImagePreprocess,
        runtime: Runtime,
    ):
        self.dataset, self.cases, self.runtime = dataset, tuple(cases), runtime
        self.arrays = image_arrays(dataset.root, cases, preprocess) if cases else None
        self.dims, self.ious = preprocess.dims, IOUS[preprocess.dims]
        self.primary = f"ap{round(100 * self.ious[0])}"

    def supervised_loss(self, output: Tensor, label: Any) -> Tensor:
        raise NotImplementedError("a detector computes its own losses (`Detector.losses`)")

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        """The mean over classes, and each class; NaN for a class that no image holds. Nothing without cases."""
        if not self.cases:
            return {}
        values = average_precision(self.found(network, limit), len(self.dataset.classes), self.ious)[0]
        known = values[~np.isnan(values)]
        scores = {f"{self.primary}_{name}": float(v) for name, v in zip(self.dataset.classes, values)}
        return {self.primary: float(known.mean()) if len(known) else 0.0, **scores}

    def found(self, network: nn.Module, limit: int | None = None) -> list[ImageBoxes]:
        """What the network, in eval mode, finds in the first `limit` images (all of them), beside what is true."""
        training = network.training
        total = min(len(self.cases), limit or len(self.cases))
        mine = self.runtime.share(range(total))
        try:
            network.eval()
            rows = [_row(found) for part in batches(len(mine), AT_ONCE) for found in self._part(network, mine, part)]
        finally:
            network.train(training)
        packed = torch.stack(rows) if rows else torch.zeros(0, MOST, 2 * self.dims + 2)
        everything = self.runtime.gather(packed.to(self.runtime.device), total).cpu()
        return [self._scored(case, row) for case, row in zip(self.cases[:total], everything)]

    def _part(self, network: nn.Module, mine: Sequence[int], part: range) -> list[Detections]:
        assert self.arrays
        numbers = [mine[i] for i in part]
        images = torch.stack([self.arrays.image(n) for n in numbers]).to(self.runtime.device)
        matrices = [self.arrays.matrix(n) for n in numbers]
        return detections(network, images, matrices, [self.cases[n].shape for n in numbers], THRESHOLD)

    def _scored(self, case: ImageCase, row: Tensor) -> ImageBoxes:
        truth, row = self.dataset.truth(case), row[row[:, -1] > 0]
        return image_boxes(
            case.id, case.patient, truth.boxes, truth.labels, row[:, :-2], row[:, -2].long(), row[:, -1], case.dims
        )


def _row(found: Detections) -> Tensor:
    """(MOST, 2 D + 2): box, label, score of the best detections; score 0 where there are fewer."""
    packed = torch.zeros(MOST, found.boxes.shape[1] + 2)
    best = found.scores.argsort(descending=True)[:MOST]
    packed[: len(best)] = torch.cat(
        [found.boxes[best], found.labels[best, None].float(), found.scores[best, None].float()], 1
    )
    return packed
