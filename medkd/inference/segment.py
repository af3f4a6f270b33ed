"""One scan to one mask on the scan's own grid. The same function serves prediction and evaluation."""

from __future__ import annotations

import numpy as np
import torch

from medkd.data.preprocess import prepare_scan, restore
from medkd.imaging.nifti import Scan
from medkd.inference.model_folder import Model, SegmentationModel
from medkd.inference.windows import predict_logits


def segment(model: Model, channels: list[Scan], device: torch.device) -> np.ndarray:
    """Class map (X, Y, Z) uint8 of a scan given as one volume a channel, all on one grid."""
    assert isinstance(model.description, SegmentationModel)
    options = model.description.preprocess
    samples, plan = prepare_scan(channels, options)
    network = model.network.to(device)
    return restore(predict_logits(network, samples, options.patch, device), plan)
