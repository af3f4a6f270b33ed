"""Segmentation as a task of the engine: its loss, and its scores on the validation cases."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from medkd.data.dataset import Case
from medkd.data.options import Preprocess
from medkd.data.preprocess import prepare_label, prepare_scan
from medkd.engine.runtime import Runtime
from medkd.imaging.nifti import read_nifti
from medkd.inference.windows import predict_logits
from medkd.segmentation.losses import DiceCE


class SegmentationTask:
    """Validation scores are Dice on the preprocessed grid, per volume, fast enough for every few updates.

    Each rank scores its share of the volumes, and all get every score. The published numbers of a run come from
    `medkd evaluate`, on each scan's own grid.
    """

    primary = "dice"

    def __init__(
        self,
        loss: DiceCE,
        classes: Sequence[str],
        cases: Sequence[Case],
        preprocess: Preprocess,
        runtime: Runtime,
    ):
        self.supervised_loss = loss
        self.classes, self.patch, self.runtime = tuple(classes), preprocess.patch, runtime
        self.cases = len(cases)
        self.volumes: list[tuple[Tensor, Tensor]] = []
        for case in runtime.share(cases):
            assert case.label is not None  # read_dataset refuses validation cases without one
            image, _ = prepare_scan([read_nifti(path) for path in case.images], preprocess)
            self.volumes.append((image, prepare_label(read_nifti(case.label), preprocess)))

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        """Mean Dice per foreground class over the volumes that hold it in truth or prediction, and their mean."""
        total, device = min(self.cases, limit or self.cases), self.runtime.device
        rows = torch.empty(0, len(self.classes) - 1, dtype=torch.float64, device=device)
        for image, label in self.volumes[: len(self.runtime.share(range(total)))]:
            predicted = predict_logits(network, image, self.patch, device).argmax(1)
            rows = torch.cat([rows, volume_dice(predicted, label.to(device), len(self.classes))[None]])
        per_class = self.runtime.gather(rows, total).nanmean(0)
        scores = {f"dice_{name}": float(v) for name, v in zip(self.classes[1:], per_class)}
        return {"dice": float(per_class.nan_to_num(0.0).mean()), **scores}


def volume_dice(predicted: Tensor, label: Tensor, classes: int) -> Tensor:
    """(classes - 1,) Dice of one volume; NaN for a class that is in neither."""
    joint = torch.bincount(label.flatten().long() * classes + predicted.flatten(), minlength=classes**2)
    joint = joint.reshape(classes, classes).double()
    return (2 * joint.diagonal() / (joint.sum(0) + joint.sum(1)))[1:]
