"""UniMatch (Yang et al., CVPR 2023, arXiv 2208.09910), the medical version (card 3.8).

One network, no teacher. Its confident hard labels of a weak view of an unlabelled image supervise two strong views of
that image, and the same view with channels dropped from the encoder's features.

The even unlabelled samples of a batch are u, the odd ones v, which supplies the CutMix boxes: 12 + 12 of each as
published need unlabelled.size 24. With L labelled and 2M unlabelled images an update takes L + 3M student images
through the encoder, 2 (L + M) + 2M through the decoder, and M in eval mode for the labels of v. Unlike the published
code, unlabelled images are not quantised to 8 bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from medkd.data.augment import apply_view, draw_view
from medkd.data.augment_options import AugmentOptions
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.randomness import Draws
from medkd.engine.taps import replaced
from medkd.engine.tensors import at_least_float32
from medkd.errors import InputError
from medkd.networks.build import encoder_levels
from medkd.segmentation.losses import one_hot, soft_dice_loss
from medkd.segmentation.mixing import halves, paste
from medkd.segmentation.options import UniMatchOptions

STRONG = AugmentOptions(preset="unimatch_strong")  # intensities only: a strong view has its weak view's geometry
BOX_AREA = (0.02, 0.4)
BOX_ASPECT = (0.3, 1 / 0.3)
SMOOTH = 1e-5


class UniMatch(Method):
    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled", "unlabelled")}

    def __init__(self, student: nn.Module, options: UniMatchOptions):
        super().__init__()
        self.student, self.options = student, options
        self.levels = encoder_levels(student)
        if not self.levels:
            raise InputError(
                f"method unimatch drops channels of the encoder's features, and the levels of {type(student).__name__} "
                "are not known; allowed: network.kind=BasicUNet"
            )

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x, unlabelled = batch["labelled"], batch["unlabelled"]
        u, v = halves(unlabelled.image)

        # 1. Labels and confidence of v, in eval mode.
        v_label, v_confidence = self.labels_in_eval_mode(v)

        # 2. Two strong views of u, each with boxes of the same view of v.
        boxes, strong = [], []
        for name in ("strong_1", "strong_2"):
            draws = replace(unlabelled.draws, scope=(*unlabelled.draws.scope, name))
            image, _ = apply_view(unlabelled.image, None, draw_view(STRONG, draws, tuple(u.shape[2:])))
            box = cutmix_boxes(draws, tuple(u.shape[2:]), self.options.cutmix)[0::2].to(u.device)
            boxes.append(box)
            strong.append(paste(image[1::2], image[0::2], box[:, None]))

        # 3. The encoder sees x and u once, the decoder twice: as they are, and with channels dropped.
        with doubled_features(self.student, self.levels, self.options.feature_dropout):
            clean, dropped = self.student(torch.cat([x.image, u])).chunk(2)
        x_logits, u_logits = clean.split([len(x), len(u)])
        u_dropped = dropped[len(x) :]
        s_logits = self.student(torch.cat(strong)).chunk(2)

        # 4. Hard labels of u; only confident pixels count. Inside a box, label and confidence are those of v.
        u_label, u_confidence = hard_labels(u_logits)
        feature_loss = self.masked_dice(u_dropped, u_label, u_confidence)
        strong_losses = [
            self.masked_dice(logits, paste(v_label, u_label, box), paste(v_confidence, u_confidence, box))
            for logits, box in zip(s_logits, boxes)
        ]

        # 5.
        labelled_loss = ctx.task.supervised_loss(x_logits, x.labels)
        loss = (labelled_loss + 0.25 * strong_losses[0] + 0.25 * strong_losses[1] + 0.5 * feature_loss) / 2
        logs = {
            "loss_labelled": labelled_loss.detach(),
            "loss_strong": torch.stack(strong_losses).detach().mean(),
            "loss_feature": feature_loss.detach(),
            "confident": (u_confidence >= self.options.threshold).float().mean(),
        }
        return StepOutput(loss, logs)

    @torch.no_grad()
    def labels_in_eval_mode(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Hard labels and confidence of the student in eval mode; its mode is restored."""
        training = self.student.training
        self.student.eval()
        try:
            return hard_labels(self.student(image))
        finally:
            self.student.train(training)

    def masked_dice(self, logits: Tensor, label: Tensor, confidence: Tensor) -> Tensor:
        """Dice over the confident pixels alone; zero, attached to the graph, if there is none."""
        probabilities = at_least_float32(logits).softmax(1)
        confident = confidence >= self.options.threshold
        return soft_dice_loss(probabilities, one_hot(label, logits.shape[1]), confident, "batch_squared", SMOOTH)


def hard_labels(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The label (B, *S) int64 and its probability (B, *S) float32 at least, detached."""
    confidence, label = at_least_float32(logits.detach()).softmax(1).max(1)
    return label, confidence


def cutmix_boxes(draws: Draws, spatial: Sequence[int], probability: float) -> Tensor:
    """(B, *S) bool on the CPU, True inside the box of each sample that has one.

    The box covers U(0.02, 0.4) of the image. The aspect, first side to second as shares of the image, is uniform in
    (0.3, 1 / 0.3), cut to what fits inside. In 3-D the third side is the cube root of the share of the volume.
    """
    n, dims = draws.size, len(spatial)
    area = draws.uniform("box_area", low=BOX_AREA[0], high=BOX_AREA[1])
    side = area ** (1 / dims)
    low, high = (side**2).clamp(min=BOX_ASPECT[0]), (side**-2).clamp(max=BOX_ASPECT[1])
    aspect = low + (high - low) * draws.uniform("box_aspect")
    shares = [side * aspect.sqrt(), side / aspect.sqrt(), *[side] * (dims - 2)]
    corner = draws.uniform("box_corner", dims)
    inside = (draws.uniform("box_present") < probability).reshape(n, *[1] * dims)
    for axis, (size, share) in enumerate(zip(spatial, shares)):
        length = (share * size).long().clamp(1, size)
        start = (corner[:, axis] * (size - length + 1)).long()
        at = torch.arange(size)
        within = (at >= start[:, None]) & (at < (start + length)[:, None])
        inside = inside & within.reshape(n, *[size if a == axis else 1 for a in range(dims)])
    return inside


@contextmanager
def doubled_features(network: nn.Module, levels: Sequence[str], rate: float) -> Iterator[None]:
    """Inside the block the decoder sees every batch twice: the encoder's features, then those with channels dropped.

    The output is (2B, K, *S). Each level passes only its clean half on to the next, so the encoder runs on B images,
    and every level's channels are dropped from clean features.
    """

    def twice(_path: str, features: Tensor) -> Tensor:
        return torch.cat([features, torch.feature_dropout(features, rate, True)])

    def clean_half(_module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Tensor]:
        return (inputs[0].chunk(2)[0],)

    handles = [network.get_submodule(level).register_forward_pre_hook(clean_half) for level in levels[1:]]
    try:
        with replaced(network, levels, twice):
            yield
    finally:
        for handle in handles:
            handle.remove()
