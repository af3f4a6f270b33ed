"""The experiment of the card of OFA-KD: a convolutional teacher, a student that mixes tokens, few labels."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.claims.digits import split, train
from medkd.claims.small import SmallClaim, Statement
from medkd.distill.losses.fitnets import FitNetLoss
from medkd.distill.losses.hinton import hinton_kd_loss
from medkd.distill.methods.forward import tapped
from medkd.distill.methods.ofa import OneForAll
from medkd.distill.ofa_options import OfaOptions
from medkd.engine.method import Batch, StepContext
from medkd.engine.randomness import Draws, seeded

TAUGHT, LABELLED, TEST = 1000, 150, 600  # images of the teacher's training (which hold the student's), and of the test
SIDE, PATCH, WIDTH, BLOCKS, STEPS = 16, 4, 32, 4, 600
TOKENS = (SIDE // PATCH) ** 2
FEATURE_WEIGHT = 100.0
OPTIONS = OfaOptions(classes=10, taps=tuple(f"blocks.{i}" for i in range(BLOCKS)), input_size=(SIDE, SIDE), width=WIDTH)


class Mixer(nn.Module):
    """4 x 4 patches, then blocks that mix tokens and channels in turn; the mean token is classified."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, WIDTH, PATCH, PATCH)
        self.blocks = nn.Sequential(*(MixerBlock() for _ in range(BLOCKS)))
        self.norm, self.head = nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 10)

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.blocks(self.patches(images).flatten(2).mT)
        output: Tensor = self.head(self.norm(tokens).mean(1))
        return output


class MixerBlock(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.tokens = nn.Sequential(nn.Linear(TOKENS, 32), nn.GELU(), nn.Linear(32, TOKENS))
        self.channels = nn.Sequential(nn.LayerNorm(WIDTH), nn.Linear(WIDTH, 64), nn.GELU(), nn.Linear(64, WIDTH))
        self.norm = nn.LayerNorm(WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.tokens(self.norm(x).mT).mT
        output: Tensor = x + self.channels(x)
        return output


def convolutional() -> nn.Sequential:
    """Four stages; the last map is 4 x 4 with 64 channels."""
    stages: list[nn.Module] = []
    for inputs, outputs, stride in ((1, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
        layers = [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        stages.append(nn.Sequential(*layers))
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Supervised:
    """What the method asks of its task here."""

    primary = "accuracy"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(output, label)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {}


def run(seed: int) -> dict[str, dict[str, float]]:
    (images, labels), (test, truth) = split(seed, TAUGHT, TEST)
    images, test = (F.interpolate(x, size=(SIDE, SIDE), mode="bilinear") for x in (images, test))
    with seeded("ofa teacher", seed):
        teacher = convolutional()
    train(
        teacher.parameters(), TAUGHT, lambda rows, _: F.cross_entropy(teacher(images[rows]), labels[rows]), STEPS, seed
    )
    teacher.eval().requires_grad_(False)
    few, few_y = images[:LABELLED], labels[:LABELLED]

    scores = {"teacher": accuracy(teacher, test, truth)}
    for arm, make in LOSSES.items():
        with seeded("ofa student", seed):
            student = Mixer()
        with seeded("ofa extra", seed):
            loss, extra = make(student, teacher)

        def of_rows(rows: Tensor, _: torch.Generator, loss: Loss = loss) -> Tensor:
            return loss(few[rows], few_y[rows])

        train([*student.parameters(), *extra], LABELLED, of_rows, STEPS, (seed, "student"))
        scores[arm] = accuracy(student.eval(), test, truth)
    return scores


Loss = Callable[[Tensor, Tensor], Tensor]
"""Of images and labels."""
Extra = list[nn.Parameter]


def scratch(student: nn.Module, teacher: nn.Module) -> tuple[Loss, Extra]:
    return lambda x, y: F.cross_entropy(student(x), y), []


def hinton(student: nn.Module, teacher: nn.Module) -> tuple[Loss, Extra]:
    def loss(x: Tensor, y: Tensor) -> Tensor:
        logits = student(x)
        return 0.1 * F.cross_entropy(logits, y) + 0.9 * hinton_kd_loss(logits, teacher(x), 4.0)

    return loss, []


def fitnet(student: nn.Module, teacher: nn.Module) -> tuple[Loss, Extra]:
    """The student's last tokens through a linear map, against the teacher's last map."""
    features = FitNetLoss(WIDTH, 64, 2)

    def loss(x: Tensor, y: Tensor) -> Tensor:
        with tapped(student, ["blocks"]) as mine, tapped(teacher, ["3"]) as its:
            labelled = F.cross_entropy(student(x), y)
            teacher(x)
        maps = mine["blocks"].mT.unflatten(2, (SIDE // PATCH, SIDE // PATCH))
        matched: Tensor = features(maps, its["3"])
        return labelled + FEATURE_WEIGHT * matched

    return loss, list(features.parameters())


def ofa(student: nn.Module, teacher: nn.Module) -> tuple[Loss, Extra]:
    method = OneForAll(student, teacher, OPTIONS)
    ctx = StepContext(0, STEPS, 0, 0, Supervised())

    def loss(x: Tensor, y: Tensor) -> Tensor:
        ids = tuple(map(str, range(len(x))))
        return method.step("student", {"labelled": Batch(x, y, ids, Draws((0,), len(x)))}, ctx).loss

    return loss, list(method.exits.parameters())


LOSSES: dict[str, Callable[[nn.Module, nn.Module], tuple[Loss, Extra]]] = {
    "scratch": scratch,
    "hinton": hinton,
    "fitnet": fitnet,
    "ofa": ofa,
}


@torch.no_grad()
def accuracy(network: nn.Module, images: Tensor, labels: Tensor) -> dict[str, float]:
    return {"accuracy": float((network(images).argmax(1) == labels).float().mean())}


CLAIM = SmallClaim(
    setting=(
        f"*Setting:* digits, resized to {SIDE} x {SIDE}. The teacher is a convolutional network of four stages, "
        f"trained on {TAUGHT} labelled images; the student a mixer of {TOKENS} tokens with {BLOCKS} blocks, which sees "
        f"{LABELLED} of these, {TEST} others are the test; {STEPS} steps for every arm, no augmentation. Hinton: "
        f"0.1 CE + 0.9 T² KL, T = 4. FitNet: CE + {FEATURE_WEIGHT:g} times the squared difference of the last "
        "features, through a linear map. OFA: gamma 1, all weights 1, an exit after each block. No weight was tuned. "
        "The paper's experiments are CIFAR-100 and ImageNet."
    ),
    arms={
        "teacher": "",
        "scratch": "labels alone",
        "hinton": "the teacher's logits",
        "fitnet": "the teacher's features",
        "ofa": "the teacher's logits at every stage",
    },
    metrics={"accuracy": "test accuracy"},
    statements=(
        Statement("ofa", "scratch", "accuracy"),
        Statement("ofa", "hinton", "accuracy"),
        Statement("ofa", "fitnet", "accuracy"),
        Statement("hinton", "scratch", "accuracy", claimed=False),
        Statement("fitnet", "scratch", "accuracy", claimed=False),
    ),
    run=run,
    seeds=5,
)
