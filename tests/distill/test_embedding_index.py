"""An index searched by encoders of one space: whole, truncated, in 8 bits (leaf.md, Invariants)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.distill.embedding_index import EmbeddingIndex, int8_steps, to_int8
from medkd.engine.randomness import generator
from medkd.errors import InputError


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=generator(seed, *shape))


DOCUMENTS = normal(30, 16)
IDS = [f"case{i}" for i in range(30)]


def index(documents: Tensor = DOCUMENTS, **options: object) -> EmbeddingIndex:
    return EmbeddingIndex(documents, IDS, "teacher", **options)


def test_scores_are_cosines_and_the_nearest_comes_first() -> None:
    queries = normal(5, 16, seed=1)
    expected = F.cosine_similarity(queries[:, None], DOCUMENTS[None], dim=2)
    torch.testing.assert_close(index().scores(queries, "teacher"), expected)
    assert index().search(DOCUMENTS[[7, 3]], "teacher", k=1) == [["case7"], ["case3"]]
    assert len(index().search(queries, "teacher", k=100)[0]) == 30


def test_truncation_is_an_index_of_the_first_coordinates() -> None:
    queries = normal(5, 16, seed=1)
    whole = index(DOCUMENTS[:, :6]).scores(queries[:, :6], "teacher")
    torch.testing.assert_close(index(dims=6).scores(queries, "teacher"), whole)


def test_int8_is_near_and_both_sides_are_rounded_with_the_documents_ranges() -> None:
    queries = normal(5, 16, seed=1)
    eight = index(int8=True)
    assert eight.documents.dtype == torch.int8
    assert eight.documents.abs().amax(0).tolist() == [127] * 16
    difference = eight.scores(queries, "teacher") - index().scores(queries, "teacher")
    assert 0 < difference.abs().max() < 0.05
    assert eight.search(DOCUMENTS, "teacher", k=1) == [[name] for name in IDS]


def test_int8_of_a_coordinate_that_is_always_zero() -> None:
    documents = DOCUMENTS.clone()
    documents[:, 3] = 0
    assert index(documents, int8=True).scores(documents, "teacher").isfinite().all()


def test_int8_rounds_to_the_nearest_step() -> None:
    x = normal(8, 4)
    step = int8_steps(x)
    assert ((to_int8(x, step).float() * step - x).abs() <= step / 2 + 1e-7).all()


def test_queries_of_another_space_are_refused() -> None:
    """Vectors of another encoder, or of other preparation, fit in shape and find nothing: silently wrong."""
    with pytest.raises(InputError, match="the space 'student', the index is of 'teacher'"):
        index().scores(DOCUMENTS, "student")


def test_a_rotated_student_finds_its_own_documents_and_not_the_teachers() -> None:
    turn = torch.linalg.qr(normal(16, 16, seed=2))[0]
    assert index(DOCUMENTS @ turn).search(DOCUMENTS @ turn, "teacher", 1) == [[name] for name in IDS]
    hits = [found == [name] for found, name in zip(index().search(DOCUMENTS @ turn, "teacher", 1), IDS)]
    assert sum(hits) <= 5


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match=r"needed: \(30, D\), a row an id"):
        index(DOCUMENTS[:5])
    with pytest.raises(InputError, match="dims is 17; it must be 1 to 16"):
        index(dims=17)
    with pytest.raises(ValueError, match=r"queries has shape \(2, 5\); needed: \(2, 16\)"):
        index().scores(torch.zeros(2, 5), "teacher")
