"""How well a retrieval ranks: nDCG and MRR of the first k, of many documents for many queries (pure NumPy)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def ndcg(scores: np.ndarray, gains: np.ndarray, k: int = 10) -> float:
    """Mean over queries of DCG@k / the best DCG@k; DCG = sum of gain / log2(1 + rank).

    scores, gains (Q, N): of N documents to Q queries; a gain is 0 or more. Queries without any gain are left out.
    Equal scores count in the order of the documents. Raises ValueError for other shapes or if no query has a gain.

    >>> round(ndcg(np.array([[0.1, 0.9]]), np.array([[1.0, 0.0]]), k=2), 6)  # it comes second: 1 / log2(3)
    0.63093
    """
    scores, gains = _checked(scores, gains)
    discount = 1 / np.log2(np.arange(2, 2 + min(k, scores.shape[1])))
    found = np.take_along_axis(gains, _first(scores, k), 1) @ discount
    best = -np.sort(-gains, axis=1)[:, : len(discount)] @ discount
    if not best.any():
        raise ValueError("no query has a document with a gain above 0")
    return float((found[best > 0] / best[best > 0]).mean())


def mrr(scores: np.ndarray, relevant: np.ndarray, k: int = 10) -> float:
    """Mean over queries of 1 / rank of the first relevant document, 0 if it is not among the first k.

    scores (Q, N), relevant (Q, N) bool. Raises ValueError for other shapes.

    >>> mrr(np.array([[0.1, 0.9, 0.5]]), np.array([[False, False, True]]))
    0.5
    """
    scores, relevant = _checked(scores, relevant)
    hits = np.take_along_axis(relevant, _first(scores, k), 1) > 0
    ranks = 1 + hits.argmax(axis=1)
    return float(np.where(hits.any(axis=1), 1 / ranks, 0.0).mean())


def _checked(scores: np.ndarray, other: np.ndarray) -> tuple[Floats, Floats]:
    if scores.ndim != 2 or scores.shape != other.shape:
        raise ValueError(f"scores have shape {scores.shape} and gains {other.shape}; needed: both (Q, N)")
    return np.asarray(scores, dtype=np.float64), np.asarray(other, dtype=np.float64)


def _first(scores: Floats, k: int) -> NDArray[np.intp]:
    return np.argsort(-scores, axis=1, kind="stable")[:, :k]
