"""nDCG and MRR against hand values and scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import ndcg_score

from medkd.metrics.retrieval import mrr, ndcg


@pytest.mark.parametrize("k", [1, 5, 10, 50])
def test_ndcg_is_scikit_learns(k: int) -> None:
    rng = np.random.default_rng(0)
    scores, gains = rng.normal(size=(7, 20)), rng.integers(0, 4, (7, 20)).astype(float)
    assert ndcg(scores, gains, k) == pytest.approx(ndcg_score(gains, scores, k=k))


def test_a_query_without_a_relevant_document_is_left_out_and_none_at_all_is_an_error() -> None:
    scores = np.array([[3.0, 2, 1], [3, 2, 1]])
    assert ndcg(scores, np.array([[1.0, 0, 0], [0, 0, 0]])) == 1
    with pytest.raises(ValueError, match="no query has"):
        ndcg(scores, np.zeros((2, 3)))


def test_mrr_counts_the_first_hit_within_k() -> None:
    scores = np.array([[4.0, 3, 2, 1], [4, 3, 2, 1], [4, 3, 2, 1]])
    relevant = np.array([[0, 1, 1, 0], [1, 0, 0, 0], [0, 0, 0, 1]], dtype=bool)
    assert mrr(scores, relevant, k=3) == pytest.approx((1 / 2 + 1 + 0) / 3)


def test_wrong_shapes_are_named() -> None:
    with pytest.raises(ValueError, match=r"needed: both \(Q, N\)"):
        mrr(np.zeros((2, 3)), np.zeros((3, 2)))
