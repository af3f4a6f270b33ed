"""Cross Pseudo Supervision (Chen et al., CVPR 2021, arXiv 2106.01226), the segmentation recipe (card 3.7).

Two networks that differ only in their initial weights and dropout see the same images; each learns the other's hard
labels. The published code has one SGD for each. One optimiser over both makes the same steps, for the sum of two
losses with disjoint parameters has their gradients; only a bound on the gradient norm would couple them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.tensors import at_least_float32
from medkd.segmentation.losses import full_resolution
from medkd.segmentation.mean_teacher import ramped
from medkd.segmentation.options import CpsOptions


class CrossPseudoSupervision(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled", "unlabelled")}

    def __init__(self, student: nn.Module, second: nn.Module, options: CpsOptions):
        super().__init__()
        self.student, self.second, self.options = student, second, options

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return [p for p in self.parameters() if p.requires_grad]

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x, u = batch["labelled"], batch["unlabelled"]
        image = torch.cat([x.image, u.image])
        x_1, u_1 = self.student(image).split([len(x), len(u)])
        x_2, u_2 = self.second(image).split([len(x), len(u)])

        labelled_loss = ctx.task.supervised_loss(x_1, x.labels) + ctx.task.supervised_loss(x_2, x.labels)
        z_1, z_2 = (at_least_float32(full_resolution(z, u.image)) for z in (u_1, u_2))
        cross_loss = cross_pseudo_loss(z_1, z_2) + cross_pseudo_loss(z_2, z_1)
        weight = ramped(self.options.weight, self.options.ramp, ctx)
        logs = {
            "loss_labelled": labelled_loss.detach(),
            "loss_cross": cross_loss.detach(),
            "weight": torch.tensor(weight),
            "agreement": (z_1.argmax(1) == z_2.argmax(1)).float().mean(),
        }
        return StepOutput(labelled_loss + weight * cross_loss, logs)

    def candidates(self) -> dict[str, nn.Module]:
        return {"student": self.student, "second": self.second, "mean": MeanOfNetworks([self.student, self.second])}


class MeanOfNetworks(nn.Module):
    """The log of the mean class probability of several networks: its softmax is the mean of theirs."""

    def __init__(self, networks: list[nn.Module]):
        super().__init__()
        self.networks = nn.ModuleList(networks)
        self.training = networks[0].training

    def forward(self, image: Tensor) -> Tensor:
        outputs = [full_resolution(network(image), image).float().log_softmax(1) for network in self.networks]
        return torch.stack(outputs).logsumexp(0) - math.log(len(outputs))


def cross_pseudo_loss(logits: Tensor, other: Tensor) -> Tensor:
    """Cross-entropy of logits (B, K, *S) to the hard labels of the other network's; no gradient to the other."""
    return F.cross_entropy(logits, other.detach().argmax(1))
