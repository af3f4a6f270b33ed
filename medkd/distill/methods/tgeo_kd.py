"""TGeo-KD (Hu et al., ICLR 2024, arXiv 2312.15112), per pixel or sample: trust the teacher, or the label?

A controller turns the geometry of four probability vectors at a pixel (student S, label G, teacher T, and the teacher's
mean vector of that class) into a ratio alpha in (0, 1). The student learns alpha * KD + (1 - alpha) * CE on training
patients; the controller learns, through a virtual step of the student, to lower the cross-entropy on held-out ones.

The class means are gathered over the training pixels seen so far, not in a pass of their own beforehand; until a class
has been seen its row is uniform.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.shared import softened_kl
from medkd.distill.methods.forward import logits_of, teacher_logits
from medkd.distill.tgeo_kd_options import TgeoKdOptions
from medkd.engine.bilevel import Network, outer_loss
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.teachers import constant
from medkd.errors import InputError


class TrilateralGeometry(Method):
    turns: tuple[str, ...] = ("controller", "student")
    reads: Mapping[str, tuple[str, ...]] = {"controller": ("labelled", "held_out"), "student": ("labelled",)}

    def __init__(self, student: nn.Module, teacher: nn.Module, options: TgeoKdOptions):
        super().__init__()
        self.student, self.teacher, self.options = student, constant(teacher), options
        classes = options.classes
        self.controller = controller(9 * classes, options.hidden)
        self.sums: Tensor
        self.counts: Tensor
        self.class_means: Tensor
        self.register_buffer("sums", torch.zeros(classes, classes, dtype=torch.float64))
        self.register_buffer("counts", torch.zeros(classes, dtype=torch.float64))
        self.register_buffer("class_means", torch.full((classes, classes), 1 / classes))

    def trainable(self, turn: str) -> list[nn.Parameter]:
        return list((self.controller if turn == "controller" else self.student).parameters())

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        labelled = batch["labelled"]
        teacher = teacher_logits(self.teacher, labelled)
        self.check(teacher)
        if turn == "controller":
            held_out = batch["held_out"]
            at_start: list[Tensor] = []

            def inner(network: Network) -> Tensor:
                student = logits_of(network, labelled.image)
                if not at_start:  # S is a constant: that of the student's own weights, wherever the network has moved
                    at_start.append(self.vectors(student, teacher, labelled.labels))
                return self.fused(self.ratio(at_start[0]), student, teacher, labelled.labels)[0]

            loss = outer_loss(
                self.options.order,
                self.student,
                inner,
                lambda network: F.cross_entropy(logits_of(network, held_out.image), held_out.labels),
                self.options.inner_rate,
                ctx.global_mean,
            )
            return StepOutput(loss, {"loss_held_out": loss.detach()})
        self.gather(teacher, labelled.labels, ctx)
        student = logits_of(self.student, labelled.image)
        with torch.no_grad():
            alpha = self.ratio(self.vectors(student, teacher, labelled.labels))
        return StepOutput(*self.fused(alpha, student, teacher, labelled.labels))

    def vectors(self, student: Tensor, teacher: Tensor, label: Tensor) -> Tensor:
        """Logits (B, K, *S) of both and labels (B, *S) to the relation vectors (B, 9K, *S), all constant."""
        means = self.class_means.to(student.dtype)[label].movedim(-1, 1)
        s, t = student.detach().softmax(1), teacher.softmax(1)
        return relation(s, one_hot(label, student), t, means, self.options.features)

    def ratio(self, vectors: Tensor) -> Tensor:
        """alpha (B, *S) of relation vectors (B, 9K, *S)."""
        with torch.autocast(vectors.device.type, enabled=False):
            alpha: Tensor = self.controller(vectors.movedim(1, -1))[..., 0].sigmoid()
        return alpha

    def fused(self, alpha: Tensor, student: Tensor, teacher: Tensor, label: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """mean(alpha * tau^2 * KL(T || S) + (1 - alpha) * CE) over pixels, and its parts for the log."""
        tau = self.options.temperature
        kd = tau**2 * softened_kl(student, teacher, tau)
        ce = F.cross_entropy(student, label, reduction="none")
        logs = {"alpha": alpha.mean(), "loss_distillation": kd.mean(), "loss_labelled": ce.mean()}
        return mixed(alpha, kd, ce).mean(), {name: value.detach() for name, value in logs.items()}

    @torch.no_grad()
    def gather(self, teacher: Tensor, label: Tensor, ctx: StepContext) -> None:
        """Add the teacher's probabilities at the pixels of each class to their sums; the same on every rank."""
        chosen, probabilities = (
            x.movedim(1, -1).flatten(0, -2).double() for x in (one_hot(label, teacher), teacher.softmax(1))
        )  # (pixels, K)
        self.sums += ctx.global_sum(chosen.T @ probabilities)
        self.counts += ctx.global_sum(chosen.sum(0))

    def after_step(self, ctx: StepContext) -> None:
        """The means of the next step. They are constant within a step, whatever its micro-batches."""
        means = self.sums / self.counts[:, None].clamp(min=1)
        self.class_means.copy_(torch.where(self.counts[:, None] > 0, means, 1 / len(means)))

    def check(self, logits: Tensor) -> None:
        if logits.shape[1] != self.options.classes:
            raise InputError(
                f"tgeo_kd.classes is {self.options.classes}, but the networks tell {logits.shape[1]} classes apart; "
                f"set classes to {logits.shape[1]}"
            )


def controller(width: int, hidden: tuple[int, ...]) -> nn.Sequential:
    """A small perceptron from `width` numbers to one."""
    layers: list[nn.Module] = []
    for size in hidden:
        layers += [nn.Linear(width, size), nn.LeakyReLU()]
        width = size
    return nn.Sequential(*layers, nn.Linear(width, 1))


def one_hot(label: Tensor, like: Tensor) -> Tensor:
    """(B, *S) int64 to (B, K, *S) in the shape and type of `like`."""
    return F.one_hot(label, like.shape[1]).movedim(-1, 1).to(like.dtype)


def relation(student: Tensor, label: Tensor, teacher: Tensor, mean: Tensor, features: str = "squared") -> Tensor:
    """The relation vector of each pixel: four probability vectors (B, K, *S) to (B, 9K, *S).

    The vertices S, T, G, M (the teacher's mean of the class), then five edges. squared: (M-S)^2, (G-S)^2, (T-S)^2,
    (T-G)^2, (M-G)^2. product: |S-G|, |S-T|, |S-M|, (G-M)(G-S), (G-T)(G-S).
    """
    s, t, g, m = student, teacher, label, mean
    if features == "squared":
        edges = [(m - s).square(), (g - s).square(), (t - s).square(), (t - g).square(), (m - g).square()]
    else:
        edges = [(s - g).abs(), (s - t).abs(), (s - m).abs(), (g - m) * (g - s), (g - t) * (g - s)]
    return torch.cat([s, t, g, m, *edges], 1)


def mixed(alpha: Tensor, kd: Tensor, ce: Tensor) -> Tensor:
    """alpha * kd + (1 - alpha) * ce, element by element. Raises ValueError for shapes that would broadcast.

    >>> mixed(torch.tensor([0.9, 0.1]), torch.tensor([1.0, 0.0]), torch.tensor([0.0, 2.0])).tolist()
    [0.8999999761581421, 1.7999999523162842]
    """
    if not alpha.shape == kd.shape == ce.shape:
        raise ValueError(f"alpha {tuple(alpha.shape)}, kd {tuple(kd.shape)} and ce {tuple(ce.shape)} must be alike")
    return alpha * kd + (1 - alpha) * ce
