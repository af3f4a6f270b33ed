"""What BCP shows its student, as pictures: the two sources and the two composites of a first batch."""

from __future__ import annotations

from torch import Tensor

from medkd.data.components import largest_component
from medkd.engine.randomness import generator
from medkd.inference.model_folder import Model
from medkd.inference.windows import predict_logits
from medkd.report.pictures import Pasted
from medkd.runs.tasks.segmentation import SegmentationSetup
from medkd.segmentation.mixing import PasteMask


def bcp_composites(setup: SegmentationSetup, model: Model, count: int = 3) -> list[Pasted]:
    """Pairs of the first step of the last phase, pseudo-labels by `model`. Volumes show their middle slice."""
    streams = setup.phases[-1].streams
    labelled, unlabelled = streams["labelled"].batch(0), streams["unlabelled"].batch(0)
    pseudo = predict_logits(model.network, unlabelled.image, setup.recipe.preprocess.patch, setup.runtime.device)
    pseudo = largest_component(pseudo.argmax(1), len(setup.dataset.classes))
    mask = PasteMask()(tuple(labelled.labels.shape[1:]), generator(setup.recipe.seed, 0, "mask"))

    def flat(volume: Tensor) -> Tensor:
        return (volume if volume.ndim == 2 else volume[..., volume.shape[-1] // 2]).cpu()

    return [
        Pasted(
            labelled.case_ids[i],
            flat(labelled.image[i, 0]).numpy(),
            flat(labelled.labels[i]).numpy(),
            unlabelled.case_ids[i],
            flat(unlabelled.image[i, 0]).numpy(),
            flat(pseudo[i]).numpy(),
            flat(mask).numpy(),
        )
        for i in range(min(count, len(labelled), len(unlabelled)))
    ]
