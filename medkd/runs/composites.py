"""What BCP shows its student, as pictures: the two sources and the two composites of a first batch."""

from __future__ import annotations

import torch

from medkd.data.components import largest_component
from medkd.engine.randomness import generator
from medkd.inference.model_folder import Model
from medkd.inference.windows import predict_logits
from medkd.report.pictures import Composite
from medkd.runs.train import Setup
from medkd.segmentation.mixing import PasteMask, paste


def bcp_composites(setup: Setup, model: Model, count: int = 3) -> list[Composite]:
    """Examples from the first step of the last phase, pseudo-labels by `model`. 3-D volumes show their middle slice."""
    streams = setup.phases[-1].streams
    labelled, unlabelled = streams["labelled"].batch(0), streams["unlabelled"].batch(0)
    pseudo = predict_logits(model.network, unlabelled.image, setup.recipe.preprocess.patch, setup.runtime.device)
    pseudo = largest_component(pseudo.argmax(1), len(setup.dataset.classes))
    mask = PasteMask()(tuple(labelled.labels.shape[1:]), generator(setup.recipe.seed, 0, "mask"))
    on_device = mask.to(labelled.image.device)

    def pair(image: torch.Tensor, label: torch.Tensor) -> tuple:
        arrays = (image[0].cpu().numpy(), label.cpu().numpy())
        return tuple(a if a.ndim == 2 else a[..., a.shape[-1] // 2] for a in arrays)

    examples = []
    for i in range(min(count, len(labelled), len(unlabelled))):
        x, y, u, p = labelled.image[i], labelled.labels[i], unlabelled.image[i], pseudo[i]
        out = pair(paste(u, x, on_device), paste(p, y, on_device))
        into = pair(paste(x, u, on_device), paste(y, p, on_device))
        flat = mask.numpy() if mask.ndim == 2 else mask.numpy()[..., mask.shape[-1] // 2]
        examples.append(Composite(pair(x, y), pair(u, p), out, into, flat))
    return examples
