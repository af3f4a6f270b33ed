"""The experiment of the card of Margin-MSE, and similar-case retrieval: a slow scorer of pairs teaches a fast one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.claims.digits import split, train
from medkd.claims.small import SmallClaim, Statement
from medkd.distill.losses.margin_mse import margin_mse_loss
from medkd.engine.randomness import generator, seeded
from medkd.metrics.retrieval import ndcg

QUERIES, TRAINED, DIM = 150, 100, 12
GRADES = torch.tensor([3] * 2 + [2] * 3 + [1] * 5 + [0] * 10)  # of a query's items by falling relevance
RELEVANT = 5  # the first so many are the positives
NOISE, OFFSET = 0.3, 3.0  # sd of the teacher's error of an item, and of its offset of a query; a relevance has sd 1
LABELLED, PAIRED, GALLERY, ASKED = 600, 200, 700, 200  # digits: teacher's, student's, documents and queries of the test
PairLoss = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Of student and teacher scores: positive (B), negative (B, n), and the teacher's of the same shapes."""


def pointwise(s_pos: Tensor, s_neg: Tensor, t_pos: Tensor, t_neg: Tensor) -> Tensor:
    """Squared error of the scores themselves, both sides of the pair weighted alike."""
    return 0.5 * (F.mse_loss(s_pos, t_pos) + F.mse_loss(s_neg, t_neg))


def ranknet(s_pos: Tensor, s_neg: Tensor, t_pos: Tensor, t_neg: Tensor) -> Tensor:
    """Logistic loss of the teacher's order."""
    order = (t_pos[:, None] - t_neg).sign()
    return F.softplus(-order * (s_pos[:, None] - s_neg)).mean()


def labels_alone(s_pos: Tensor, s_neg: Tensor, t_pos: Tensor, t_neg: Tensor) -> Tensor:
    """RankNet on the labels: the positive is the better one."""
    return F.softplus(s_neg - s_pos[:, None]).mean()


LOSSES: dict[str, PairLoss] = {
    "margin-mse": margin_mse_loss,
    "pointwise": pointwise,
    "ranknet": ranknet,
    "labels": labels_alone,
}


def run(seed: int) -> dict[str, dict[str, float]]:
    generated, digits = on_generated(seed), on_digits(seed)
    return {arm: generated.get(arm, {}) | digits.get(arm, {}) for arm in generated | digits}


def on_generated(seed: int) -> dict[str, dict[str, float]]:
    """Bilinear relevance, bilinear students; a teacher with an offset of each query, and one without."""
    g = generator("margin_mse", seed)
    queries, items = torch.randn(QUERIES, DIM, generator=g), torch.randn(QUERIES, len(GRADES), DIM, generator=g)
    truth = torch.einsum("qi,ij,qnj->qn", queries, torch.randn(DIM, DIM, generator=g), items) / DIM
    order = truth.argsort(dim=1, descending=True)
    truth, items = truth.gather(1, order), items.gather(1, order[..., None].expand_as(items))
    even = 2 * truth + NOISE * torch.randn(truth.shape, generator=g)
    uneven = even + OFFSET * torch.randn(QUERIES, 1, generator=g)

    def student(loss: PairLoss, teacher: Tensor) -> Tensor:
        weights, bias = nn.Parameter(torch.zeros(DIM, DIM)), nn.Parameter(torch.zeros(()))

        def scores(rows: Any) -> Tensor:
            return torch.einsum("qi,ij,qnj->qn", queries[rows], weights, items[rows]) + bias

        def of_all(rows: Tensor, _: torch.Generator) -> Tensor:
            return loss(*pairs(scores(slice(TRAINED))), *pairs(teacher[:TRAINED]))

        train([weights, bias], TRAINED, of_all, 400, seed, lr=0.05)
        return scores(slice(TRAINED, None)).detach()

    gains = (2.0**GRADES - 1).expand(QUERIES - TRAINED, -1).numpy()
    found = {"teacher": uneven[TRAINED:]} | {arm: student(loss, uneven) for arm, loss in LOSSES.items()}
    scored = {arm: {"generated": ndcg(s.numpy(), gains)} for arm, s in found.items()}
    for arm in ("margin-mse", "pointwise"):
        scored[arm]["even"] = ndcg(student(LOSSES[arm], even).numpy(), gains)
    return scored


def pairs(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(Q, N), the first RELEVANT columns the positives, to every positive (B) and its query's negatives (B, n)."""
    negative = scores[:, None, RELEVANT:].expand(-1, RELEVANT, -1)
    return scores[:, :RELEVANT].reshape(-1), negative.reshape(-1, negative.shape[-1])


class PairScorer(nn.Module):
    """The slow teacher: both images through one network, which no index can do beforehand."""

    def __init__(self) -> None:
        super().__init__()
        self.each = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU())
        self.both = nn.Sequential(nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, query: Tensor, document: Tensor) -> Tensor:
        """(B, 1, 8, 8) twice to (B): the logit of "the same digit"."""
        a, b = self.each(query), self.each(document)
        return self.both(torch.cat([a * b, (a - b).abs()], 1))[:, 0]


def on_digits(seed: int) -> dict[str, dict[str, float]]:
    """Same digit or not; the student is a product of two embeddings of 8 numbers."""
    (many, many_y), (few, few_y), (gallery, gallery_y), (asked, asked_y) = split(seed, LABELLED, PAIRED, GALLERY, ASKED)
    with seeded("margin_mse", seed):
        teacher = PairScorer()

    def same_or_not(rows: Tensor, g: torch.Generator) -> Tensor:
        other = partners(many_y, rows, torch.arange(len(rows)) % 2 == 0, g)
        same = (many_y[rows] == many_y[other]).float()
        return F.binary_cross_entropy_with_logits(teacher(many[rows], many[other]), same)

    train(teacher.parameters(), LABELLED, same_or_not, 800, (seed, "teacher"), batch=128)
    with torch.no_grad():
        table = teacher(*every_pair(few, few)).reshape(PAIRED, PAIRED)
        found = {"teacher": teacher(*every_pair(asked, gallery)).reshape(ASKED, GALLERY)}

    for arm, loss in LOSSES.items():
        with seeded("margin_mse student", seed):
            student = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
            bias = nn.Parameter(torch.zeros(()))

        def of_triples(rows: Tensor, g: torch.Generator, loss: PairLoss = loss, student: nn.Module = student) -> Tensor:
            yes, no = (partners(few_y, rows, torch.full(rows.shape, flag), g) for flag in (True, False))
            q, p, n = student(few[torch.cat([rows, yes, no])]).chunk(3)
            scores = ((q * p).sum(1) + bias, ((q * n).sum(1) + bias)[:, None])  # noqa: B023 (used in this turn only)
            return loss(*scores, table[rows, yes], table[rows, no][:, None])

        train([*student.parameters(), bias], PAIRED, of_triples, 800, (seed, "student"))
        with torch.no_grad():
            found[arm] = student(asked) @ student(gallery).T
    gains = (asked_y[:, None] == gallery_y).double().numpy()
    return {arm: {"digits": ndcg(scores.numpy(), gains)} for arm, scores in found.items()}


def partners(labels: Tensor, rows: Tensor, same: Tensor, g: torch.Generator) -> Tensor:
    """For each row a random other sample, of the same label where `same` (B) is True and of another where it is not."""
    alike = labels[rows][:, None] == labels
    allowed = torch.where(same[:, None], alike & (rows[:, None] != torch.arange(len(labels))), ~alike)
    return torch.multinomial(allowed.float(), 1, generator=g)[:, 0]


def every_pair(queries: Tensor, documents: Tensor) -> tuple[Tensor, Tensor]:
    """All Q x D pairs, the documents of the first query first."""
    return queries.repeat_interleave(len(documents), 0), documents.repeat(len(queries), 1, 1, 1)


CLAIM = SmallClaim(
    setting=(
        f"*Setting:* (1) generated: {TRAINED} training and {QUERIES - TRAINED} test queries with {len(GRADES)} items "
        f"each, relevance bilinear in {DIM} + {DIM} numbers. The teacher's score is twice the relevance, with an error "
        f"of each item (sd {NOISE}) and an offset of each query (sd {OFFSET}) that the bilinear student cannot "
        "express; *even*: the same without the offset. (2) digits: similar cases are images of the same digit. The "
        f"teacher is a network that sees both images of a pair, trained on {LABELLED} labelled images; the student, a "
        f"product of two embeddings of 8 numbers, learns from triples of {PAIRED} images and searches {GALLERY} others "
        f"for {ASKED} queries. Every arm sees the same triples. The paper distils BERT on 40 million triples of "
        "MS MARCO."
    ),
    arms={
        "teacher": "",
        "margin-mse": "squared error of margins",
        "pointwise": "squared error of scores",
        "ranknet": "logistic loss of the teacher's order",
        "labels": "logistic loss of the labels, no teacher",
    },
    metrics={
        "generated": "nDCG@10, generated",
        "digits": "nDCG@10, digits",
        "even": "nDCG@10, generated, even teacher",
    },
    statements=(
        Statement("margin-mse", "pointwise", "generated"),
        Statement("margin-mse", "pointwise", "digits"),
        Statement("margin-mse", "labels", "digits"),
        Statement("margin-mse", "ranknet", "generated", claimed=False),
        Statement("margin-mse", "ranknet", "digits", claimed=False),
        Statement("margin-mse", "pointwise", "even", claimed=False),
    ),
    run=run,
)
