"""Classification as a task of the engine: its loss, and its scores on the validation images."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn

from medkd.classification.classify import probabilities
from medkd.classification.loss import WeightedCrossEntropy
from medkd.data.classification_dataset import ClassificationDataset
from medkd.data.image_arrays import image_arrays
from medkd.data.image_cases import ImageCase
from medkd.data.image_options import ImagePreprocess
from medkd.engine.runtime import Runtime
from medkd.metrics.classification import point_scores

AT_ONCE = 32


class ClassificationTask:
    """primary: `balanced_accuracy`, or `auc`, the mean of each class against the rest.

    Each rank looks at its share of the images, and all get every score.
    """

    def __init__(
        self,
        loss: WeightedCrossEntropy,
        dataset: ClassificationDataset,
        cases: Sequence[ImageCase],
        preprocess: ImagePreprocess,
        runtime: Runtime,
        primary: str,
    ):
        self.supervised_loss = loss
        self.classes, self.runtime, self.primary = dataset.classes, runtime, primary
        self.arrays = image_arrays(dataset.root, cases, preprocess, canonical=True)
        self.truth = np.array([dataset.truth(case) for case in cases])

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        """Accuracy, balanced accuracy, AUC, and the sensitivity for each class; NaN for one that no image is of."""
        training, device = network.training, self.runtime.device
        total = min(len(self.truth), limit or len(self.truth))
        mine = self.runtime.share(range(total))
        rows = torch.zeros(0, len(self.classes))
        try:
            network.eval()
            for first in range(0, len(mine), AT_ONCE):
                images = torch.stack([self.arrays.image(n) for n in mine[first : first + AT_ONCE]])
                rows = torch.cat([rows, probabilities(network, images.to(device))])
        finally:
            network.train(training)
        found = self.runtime.gather(rows.to(device), total).cpu().numpy()
        scores = point_scores(found, self.truth[:total])
        named = {f"sensitivity_{name}": float(v) for name, v in zip(self.classes, scores.sensitivity[0])}
        return {
            "balanced_accuracy": float(scores.balanced_accuracy[0]),
            "auc": float(scores.mean_auc[0]),
            "accuracy": float(scores.accuracy[0]),
            **named,
        }
