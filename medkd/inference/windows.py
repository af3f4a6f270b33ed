"""A network over whole samples: in one piece where they fit the window, else by a sliding window."""

from __future__ import annotations

import torch
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

OVERLAP = 0.5
SAMPLES_AT_ONCE = {2: 32, 3: 2}


@torch.inference_mode()
def predict_logits(network: nn.Module, samples: Tensor, patch: tuple[int, ...], device: torch.device) -> Tensor:
    """Logits (N, K, *S) of samples (N, C, *S), with the network in eval mode; on `device`.

    Samples larger than the patch are covered by half-overlapping windows with Gaussian weights; smaller ones are
    padded with zeros and cropped back (as in training). The network's mode is restored.
    """
    was_training = network.training
    network.eval()
    try:
        at_once = SAMPLES_AT_ONCE[len(patch)]
        parts = []
        for part in samples.split(at_once):
            part = part.to(device)
            if tuple(part.shape[2:]) == tuple(patch):
                parts.append(network(part))
            else:
                parts.append(sliding_window_inference(part, patch, at_once, network, OVERLAP, mode="gaussian"))
        return torch.cat(parts)
    finally:
        network.train(was_training)
