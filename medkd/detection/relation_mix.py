"""Relation-guided mixing (card 3.3): crops of confusable classes are blended into the boxes of an image.

For each box: which class it meets is drawn from the relational context, the crop from a bank (of the source model's
labels or of the teacher's), the share m of the base from Beta(1/2, 1/2). The content of the box becomes
m * base + (1 - m) * crop, its soft label the same mixture. Boxes are not moved and nothing outside them changes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.data.targets import Target
from medkd.detection.crops import CropBank, corners, overlap, sample
from medkd.detection.relational import majority, partners
from medkd.engine.randomness import Draws, generator

LEAST_CONFUSION = 0.1  # a class that is confused less is not mixed
SKIP = 0.5  # of the boxes for which a crop was chosen
OTHER_DOMAIN = 0.2  # how often a majority box of the labelled stream takes its crop from the target's bank
SAME_OBJECT = 0.5  # IoU from which boxes of two sets of labels are the same object
NUMBERS = 5  # uniform numbers a box


@dataclass(frozen=True)
class RelationMix:
    """probability: of an image to be mixed. least_size: a crop less than this share of the box along an axis is not
    used. limit: a majority base keeps at most half of itself, a minority base at least half."""

    probability: float = 0.5
    least_size: float = 0.4
    limit: bool = True

    def __call__(
        self,
        images: Tensor,
        target_sets: Sequence[Sequence[Target]],
        matrix: Tensor,
        source: CropBank,
        target: CropBank | None,
        draws: Draws,
        is_target: bool,
    ) -> tuple[Tensor, list[list[Target]]]:
        """New images (B, C, *S) and new target sets; the inputs stay as they are.

        Boxes of several sets that overlap (IoU of at least 1/2) are one object: they share the decision of the first.
        is_target: the images are the unlabelled stream's, in which minority bases stay unmixed.
        """
        classes, count = len(matrix), len(target_sets)
        by_image = [[s[i] for s in target_sets] for i in range(len(images))]
        if not any(len(t) for sets in by_image for t in sets):
            return images, [list(s) for s in target_sets]
        boxes = torch.cat([t.boxes for sets in by_image for t in sets])
        labels = torch.cat([t.labels for sets in by_image for t in sets])
        leader = _leaders(by_image, labels.device)
        owner, u = self._uniform(by_image, draws, boxes)

        weights = partners(matrix, is_target).to(boxes)[labels]
        often = majority(matrix)[labels]
        partner = drawn(weights, u[:, 0])
        wanted = (u[:, 4] < 1 - SKIP) & (weights.sum(1) >= LEAST_CONFUSION) & (partner != labels)
        wanted &= leader == torch.arange(len(labels), device=labels.device)
        bank, row = chosen_crop(source, target, partner, u[:, 1], u[:, 2], often, is_target)
        crops, sizes, held = bank
        low, high = corners(boxes)
        wanted &= held & (sizes[row] >= self.least_size * (high - low)).all(1) & ((high - low) > 0).all(1)

        m = torch.sin(math.pi / 2 * u[:, 3]).square()  # Beta(1/2, 1/2) by its inverse
        if self.limit:
            m = torch.where(often, torch.minimum(m, 1 - m), torch.maximum(m, 1 - m))
        mixed = blend_boxes(images, owner, low, high, crops, row, m, wanted)
        wanted, partner, m = wanted[leader], partner[leader], m[leader]
        soft = m[:, None] * F.one_hot(labels, classes + 1) + (1 - m)[:, None] * F.one_hot(partner, classes + 1)
        hard = torch.where(wanted & (m < 0.5), partner, labels)
        return mixed, _relabelled(by_image, count, wanted, soft, hard)

    def _uniform(self, by_image: list[list[Target]], draws: Draws, like: Tensor) -> tuple[Tensor, Tensor]:
        """The image of each box, and its uniform numbers (N, 5) keyed to the sample; in images that are left alone the
        last is 1, which mixes nothing."""
        owner, rows = [], []
        for i, sets in enumerate(by_image):
            n = sum(map(len, sets))
            g = generator(*draws.scope, "mix", draws.start + i)
            skipped = torch.rand((), generator=g) >= self.probability
            u = torch.rand(n, NUMBERS, generator=g)
            if skipped:
                u[:, 4] = 1.0
            owner.append(torch.full((n,), i))
            rows.append(u)
        return torch.cat(owner).to(like.device), torch.cat(rows).to(like)


def drawn(weights: Tensor, uniform: Tensor) -> Tensor:
    """(N,) classes drawn with probabilities proportional to weights (N, K), by uniform numbers (N,)."""
    cumulative = weights.cumsum(1)
    return (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(1).clamp(max=weights.shape[1] - 1)


def chosen_crop(
    source: CropBank,
    target: CropBank | None,
    partner: Tensor,
    u_bank: Tensor,
    u_crop: Tensor,
    often: Tensor,
    is_target: bool,
) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """The crops (rows, C, *side), their sizes, whether each box has one, and its row. The target's bank is used
    where it holds the class and the base is of the minority, or in the target stream, or one time in five; else the
    source's."""
    row, held = source.pick(partner, u_crop), source.held()[partner] > 0
    if target is None:
        return (source.crops, source.sizes, held), row
    other = (target.held()[partner] > 0) & (~often | (u_bank < OTHER_DOMAIN) | is_target)
    row = torch.where(other, target.pick(partner, u_crop) + len(source.crops), row)
    return (torch.cat([source.crops, target.crops]), torch.cat([source.sizes, target.sizes]), held | other), row


def blend_boxes(
    images: Tensor, owner: Tensor, low: Tensor, high: Tensor, crops: Tensor, row: Tensor, m: Tensor, wanted: Tensor
) -> Tensor:
    """m * image + (1 - m) * crop where the centre of a pixel lies in a wanted box; where several do, the last one's.

    Only pixels of wanted boxes are computed: most batches mix few. On a GPU their number costs two waits, right after
    those of the teacher's detections; computing every pixel cost more (docs/results/grounded_teacher_cost.md).
    """
    chosen = wanted.nonzero()[:, 0]
    owner, low, high, row, m = owner[chosen], low[chosen], high[chosen], row[chosen], m[chosen]
    spatial = images.shape[2:]
    inside = torch.ones(len(chosen), *[1] * len(spatial), dtype=torch.bool, device=images.device)
    for axis, size in enumerate(spatial):
        shape = [size if a == axis else 1 for a in range(len(spatial))]
        centre = torch.arange(size, device=images.device) + 0.5
        within = (centre >= low[:, axis, None]) & (centre < high[:, axis, None])
        inside = inside & within.view(len(low), *shape)
    number = torch.arange(1, len(low) + 1, device=images.device).view(-1, *[1] * len(spatial))
    top = torch.zeros(len(images), *spatial, dtype=number.dtype, device=images.device)
    index = owner.view(-1, *[1] * len(spatial)).expand(len(low), *spatial)
    top.scatter_reduce_(0, index, torch.where(inside, number, 0), "amax")
    _, *place = pixels = top.nonzero(as_tuple=True)
    box = top[pixels] - 1
    side = torch.tensor(crops.shape[2:], device=images.device)
    points = (torch.stack(place, 1) + 0.5 - low[box]) / (high - low)[box] * side
    content = sample(crops, row[box], points[:, None].to(images.dtype))[..., 0]
    share = m.to(images.dtype)[box][:, None]
    mixed = images.movedim(1, -1).contiguous()
    mixed[pixels] = share * mixed[pixels] + (1 - share) * content
    return mixed.movedim(-1, 1).contiguous()


def _leaders(by_image: list[list[Target]], device: torch.device) -> Tensor:
    """(N,) for each box the first box of an earlier set that is the same object, or itself."""
    leaders, offset = [], 0
    for sets in by_image:
        boxes, n = torch.cat([t.boxes for t in sets]), sum(map(len, sets))
        of = torch.repeat_interleave(torch.arange(len(sets)), torch.tensor([len(t) for t in sets])).to(device)
        own = torch.arange(n, device=device)
        same = overlap(boxes, boxes) >= SAME_OBJECT
        same = (same & (of[None] < of[:, None])) | (own[None] == own[:, None])
        first = same.int().argmax(1) if n else own
        leaders.append(first + offset)
        offset += n
    return torch.cat(leaders)


def _relabelled(
    by_image: list[list[Target]], count: int, wanted: Tensor, soft: Tensor, hard: Tensor
) -> list[list[Target]]:
    sizes = [len(t) for sets in by_image for t in sets]
    parts = iter(zip(wanted.split(sizes), soft.split(sizes), hard.split(sizes)))
    new: list[list[Target]] = [[] for _ in range(count)]
    for sets in by_image:
        for number, old in enumerate(sets):
            mixed, mixture, label = next(parts)
            before = old.soft if old.soft is not None else F.one_hot(old.labels, mixture.shape[1]).to(mixture)
            new[number].append(replace(old, labels=label, soft=torch.where(mixed[:, None], mixture, before)))
    return new
