"""An index of embeddings that several encoders of one space can search: whole, truncated, or in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.engine.tensors import need
from medkd.errors import InputError


class EmbeddingIndex:
    """Embeddings (N, D) of documents, made by one encoder; the score of a query is its cosine with a document.

    space: names the encoder and how its input is prepared. A student trained on this encoder's embeddings searches the
    index without re-indexing, but only if it is of the same space: queries of another one are refused.
    dims: keep only the first so many coordinates. int8: keep documents in 8 bits, and round queries with the ranges of
    the documents, so that both sides are rounded alike.
    """

    def __init__(
        self,
        embeddings: Tensor,
        ids: Sequence[str],
        space: str,
        dims: int | None = None,
        int8: bool = False,
    ):
        if embeddings.ndim != 2 or len(embeddings) != len(ids):
            raise ValueError(f"embeddings have shape {tuple(embeddings.shape)}; needed: ({len(ids)}, D), a row an id")
        self.width = embeddings.shape[1]
        if dims is not None and not 0 < dims <= self.width:
            raise InputError(f"dims is {dims}; it must be 1 to {self.width}, the width of the embeddings")
        self.ids, self.space, self.dims = tuple(ids), space, dims or self.width
        documents = F.normalize(embeddings.detach().float()[:, : self.dims], dim=1)
        self.step = int8_steps(documents) if int8 else None
        self.documents = documents if self.step is None else to_int8(documents, self.step)

    def scores(self, queries: Tensor, space: str) -> Tensor:
        """Cosines (Q, N) of queries (Q, D). Raises InputError for queries of another space."""
        if space != self.space:
            raise InputError(
                f"the queries are of the space {space!r}, the index is of {self.space!r}; embed them alike"
            )
        need("queries", queries, [(len(queries), self.width)])
        q = F.normalize(queries.detach().float()[:, : self.dims], dim=1)
        if self.step is None:
            return q @ self.documents.T
        rounded, documents = (x.float() * self.step for x in (to_int8(q, self.step), self.documents))
        return F.normalize(rounded, dim=1) @ F.normalize(documents, dim=1).T

    def search(self, queries: Tensor, space: str, k: int = 10) -> list[list[str]]:
        """The ids of the k nearest documents of each query, the nearest first."""
        best = self.scores(queries, space).topk(min(k, len(self.ids)), dim=1).indices
        return [[self.ids[i] for i in row] for row in best.tolist()]


def int8_steps(embeddings: Tensor) -> Tensor:
    """(D): the value of one step of each coordinate, so that the largest one of the documents is 127 steps."""
    return embeddings.abs().amax(0).clamp(min=torch.finfo(embeddings.dtype).tiny) / 127


def to_int8(x: Tensor, step: Tensor) -> Tensor:
    """x / step, rounded and held within -127 .. 127.

    >>> to_int8(torch.tensor([[0.5, -0.26, 2.0]]), torch.tensor([0.01, 0.01, 0.01])).tolist()
    [[50, -26, 127]]
    """
    return (x / step).round().clamp(-127, 127).to(torch.int8)
