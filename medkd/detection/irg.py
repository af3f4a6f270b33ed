"""IRG (sfod_baselines.md, B8), in the form of its card: the teacher's proposals as a graph of related instances.

    f             features that the box predictor reads, (R, D), of the same proposals in both networks
    relation      A = row-normalised square of (W_q f)(W_k f)^T
    refined       three graph convolutions relu(A x W), and through a network's own box predictor refined logits
    losses        KL(teacher || student); KL(logits || refined logits) for student and for teacher;
                  contrast: a student's region is drawn to the teacher's view of it and of those related to it

The graph serves both networks and never ships. In the released code both sides of the contrast are the student's; here
the keys are the teacher's. Related: above one half after the row is scaled to 0 .. 1; a region is related to itself.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.detection.baseline_options import IrgOptions
from medkd.detection.detectors.protocol import Scene
from medkd.detection.region_teacher import RegionTeacher, Taught

RELATED = 0.5


class RelationGraph(nn.Module):
    """Relations between the regions of an image, and their features after three convolutions along them.

    Shape: features (R, D) -> relation (R, R), refined (R, D).
    """

    def __init__(self, features: int, width: int):
        super().__init__()
        self.query, self.key = (nn.Linear(features, features, bias=False) for _ in range(2))
        sizes = [features, width, width, features]
        self.convolutions = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        related, x = relation(self.query(features), self.key(features)), features
        for convolution in self.convolutions:
            x = F.relu(related @ convolution(x))
        return related, x


def relation(query: Tensor, key: Tensor) -> Tensor:
    """(R, R) of (R, D) each: squared products, each row divided by its sum.

    >>> relation(torch.tensor([[1.0, 0]]), torch.tensor([[1.0, 0], [2, 5]])).tolist()
    [[0.20000000298023224, 0.800000011920929]]
    """
    return F.normalize((query @ key.T).square(), p=1, dim=1)


def positives(related: Tensor) -> Tensor:
    """(R, R) bool: which regions are related, of a relation."""
    low, high = related.amin(1, keepdim=True), related.amax(1, keepdim=True)
    scaled = (related - low) / (high - low).clamp(min=1e-12)
    return (scaled > RELATED) | torch.eye(len(related), dtype=torch.bool, device=related.device)


def contrast(queries: Tensor, keys: Tensor, positive: Tensor, temperature: float) -> Tensor:
    """Supervised contrast of (R, D) against (R, D): -mean_i mean_{j in P_i} log softmax_j(q_i . k_j / temperature),
    of directions."""
    products = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T
    share = (products / temperature).log_softmax(1).where(positive, 0)
    return -(share.sum(1) / positive.sum(1)).mean()


def divergence(target: Tensor, logits: Tensor) -> Tensor:
    """KL(target || prediction) of logits (R, K + 1), mean over regions; no gradient to the target."""
    return F.kl_div(logits.log_softmax(1), target.detach().log_softmax(1), reduction="batchmean", log_target=True)


class InstanceRelationGraph(RegionTeacher):
    options: IrgOptions
    terms = ("agreement", "contrast")

    def __init__(self, student: nn.Module, options: IrgOptions):
        super().__init__(student, options)
        head = next(m for m in student.roi_heads.box_predictor.modules() if isinstance(m, nn.Linear))  # type: ignore[union-attr]
        self.graph = RelationGraph(head.in_features, options.width)

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return [*super().trainable(turn), *self.graph.parameters()]

    def region_losses(self, student: Scene, taught: Taught) -> dict[str, Tensor]:
        o, proposals = self.options, taught.scene.proposals
        mine = student.features(proposals)
        with torch.no_grad():
            theirs = taught.scene.features(proposals)
            their_logits, _ = taught.scene.classify(theirs)
        my_logits, _ = student.classify(mine)
        counts = [len(p) for p in proposals if len(p)]
        seen = [self.graph(part) for part in mine.split(counts)]  # regions of different images are not related
        my_refined = torch.cat([x for _, x in seen])
        their_refined = torch.cat([self.graph(part)[1] for part in theirs.split(counts)])
        agreement = (
            divergence(their_logits, my_logits)
            + divergence(my_logits, student.classify(my_refined)[0])
            + divergence(their_logits, taught.scene.classify(their_refined)[0])
        )
        pulls = [
            contrast(q, k, positives(related.detach()), o.temperature)
            for (related, _), q, k in zip(seen, mine.split(counts), theirs.split(counts))
        ]
        return {"agreement": o.agreement * agreement, "contrast": o.contrast * torch.stack(pulls).mean()}
