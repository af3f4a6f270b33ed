"""The experiment of the card of LEAF, on images: small encoders query the index of a large one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.claims.digits import perturbed, split, train
from medkd.claims.small import SmallClaim, Statement
from medkd.distill.embedding_index import EmbeddingIndex
from medkd.distill.losses.embedding_alignment import embedding_alignment_loss
from medkd.engine.randomness import generator, seeded
from medkd.metrics.retrieval import mrr

LABELLED, UNLABELLED, DOCUMENTS = 500, 600, 600
DIM, KEPT, WIDTHS = 32, 8, (3, 12, 48)
NOISE = 0.08  # of a query, and of what the students are trained on
SPACE = "digits teacher, 8 x 8 in [0, 1]"


class Teacher(nn.Module):
    """A convolutional classifier; its embedding are the features before the classes, as unit vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.ReLU(),
            nn.Flatten(), nn.Linear(64 * 16, DIM),
        )  # fmt: skip
        self.classes = nn.Linear(DIM, 10)
        self.axes: Tensor
        self.register_buffer("axes", torch.eye(DIM))

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1, 8, 8) to (B, DIM)."""
        return F.normalize(self.features(images) @ self.axes, dim=1)


def taught(seed: int, images: Tensor, labels: Tensor) -> Teacher:
    """Trained on the labels, then turned so that its first coordinates vary most: these are what truncation keeps."""
    with seeded("leaf teacher", seed):
        teacher = Teacher()

    def loss(rows: Tensor, g: torch.Generator) -> Tensor:
        return F.cross_entropy(teacher.classes(teacher.features(perturbed(images[rows], g, NOISE))), labels[rows])

    train(teacher.parameters(), len(images), loss, 500, (seed, "teacher"))
    with torch.no_grad():
        features = teacher.features(images)
        teacher.axes.copy_(torch.linalg.svd(features - features.mean(0), full_matrices=False).Vh.T)
    return teacher.requires_grad_(False)


def encoder(width: int) -> nn.Module:
    """A student: `width` hidden units, and the map to the teacher's space, which stays with it."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, DIM))


def run(seed: int) -> dict[str, dict[str, float]]:
    (images, labels), (unlabelled, _), (documents, _) = split(seed, LABELLED, UNLABELLED, DOCUMENTS)
    teacher = taught(seed, images, labels)
    queries = perturbed(documents, generator("leaf queries", seed), NOISE)
    indexed, asked = teacher(documents), teacher(queries)
    scores = {arm("teacher", form): {"mrr": found(indexed, asked, **FORMS[form])} for form in FORMS}
    for width in WIDTHS:
        with seeded("leaf student", seed):
            student = encoder(width)

        def loss(rows: Tensor, g: torch.Generator, student: nn.Module = student) -> Tensor:
            view = perturbed(unlabelled[rows], g, NOISE)  # the same view on both sides
            return embedding_alignment_loss(student(view), teacher(view))

        train(student.parameters(), UNLABELLED, loss, 1500, (seed, "student"))
        with torch.no_grad():
            s, own = student(queries), student(documents)
        for form in FORMS:
            scores[arm(f"student-{width}", form)] = {"mrr": found(indexed, s, **FORMS[form])}
        alignment = float(F.cosine_similarity(s, asked).mean())
        scores[f"student-{width}"] |= {"symmetric": found(own, s), "alignment": alignment}
    with seeded("leaf rotation", seed):
        turn = torch.linalg.qr(torch.randn(DIM, DIM))[0]
    alignment = float(F.cosine_similarity(s @ turn, asked).mean())
    scores["rotated"] = {"mrr": found(indexed, s @ turn), "symmetric": found(own @ turn, s @ turn)}
    scores["rotated"]["alignment"] = alignment
    return scores


FORMS: dict[str, dict[str, Any]] = {"": {}, "int8": {"int8": True}, f"{KEPT} numbers": {"dims": KEPT}}


def arm(encoder: str, form: str) -> str:
    return f"{encoder}, {form}" if form else encoder


def found(documents: Tensor, queries: Tensor, **options: Any) -> float:
    """MRR@10 of each query's own document."""
    index = EmbeddingIndex(documents, [str(i) for i in range(len(documents))], SPACE, **options)
    return mrr(index.scores(queries, SPACE).numpy(), torch.eye(len(queries)).bool().numpy())


SMALL, MIDDLE, LARGE = (f"student-{width}" for width in WIDTHS)
CLAIM = SmallClaim(
    setting=(
        f"*Setting:* digits. The teacher is a convolutional network trained on {LABELLED} labelled images; its "
        f"embedding has {DIM} numbers, turned so that the first vary most. Students are perceptrons with {WIDTHS[0]}, "
        f"{WIDTHS[1]} or {WIDTHS[2]} hidden units, trained on {UNLABELLED} unlabelled images to give the teacher's "
        f"embedding of the same view. {DOCUMENTS} other images are indexed by the teacher; a query is one of them, "
        f"moved by up to a pixel and with noise of sd {NOISE}, and the score is MRR@10 of finding it. *Rotated*: the "
        "largest student turned at random, which no comparison among its own embeddings can see. The paper distils "
        "text encoders of 109 to 335 million parameters."
    ),
    arms={arm("teacher", form): "" for form in FORMS}
    | {arm(student, form): "" for student in (SMALL, MIDDLE, LARGE) for form in FORMS}
    | {"rotated": ""},
    metrics={
        "mrr": "MRR@10, the teacher's index",
        "symmetric": "MRR@10, its own index",
        "alignment": "cosine with the teacher's embedding",
    },
    statements=(
        Statement(MIDDLE, SMALL, "mrr"),
        Statement(LARGE, MIDDLE, "mrr"),
        Statement(LARGE, "rotated", "mrr"),
        Statement(arm(LARGE, "int8"), LARGE, "mrr", margin=-0.01),
        Statement(arm("teacher", "int8"), "teacher", "mrr", margin=-0.01),
        Statement("teacher", LARGE, "mrr", claimed=False),
        Statement(arm("teacher", f"{KEPT} numbers"), arm(LARGE, f"{KEPT} numbers"), "mrr", claimed=False),
    ),
    run=run,
)
