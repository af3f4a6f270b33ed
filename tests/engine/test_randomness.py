from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.engine.method import Batch
from medkd.engine.randomness import Draws, generator, key, seeded

SCOPES = st.tuples(st.integers(0, 5), st.integers(0, 10**6), st.sampled_from(["labelled", "unlabelled"]))


def all_draws(draws: Draws) -> list[torch.Tensor]:
    return [
        draws.uniform("u"),
        draws.uniform("v", 2, 3, low=-1, high=4),
        draws.integers("i", 1000, 2),
        draws.normal("n", torch.empty(draws.size, 1, 5, 7)),
    ]


@settings(max_examples=30)
@given(SCOPES, st.integers(1, 4), st.integers(1, 4))
def test_the_parts_of_a_batch_draw_what_the_whole_draws(scope: tuple[object, ...], parts: int, each: int) -> None:
    """Also parts of parts: a rank's share is split again into micro-batches."""
    size = 2 * parts * each
    whole = Draws(scope, size)
    batch = Batch(torch.zeros(size, 1), None, tuple(map(str, range(size))), whole)
    micros = [batch.micro(half, 2).micro(part, parts) for half in range(2) for part in range(parts)]
    for expected, *pieces in zip(all_draws(whole), *[all_draws(micro.draws) for micro in micros]):
        assert torch.equal(torch.cat(pieces), expected)


@settings(max_examples=30)
@given(SCOPES)
def test_the_same_scope_draws_the_same_and_any_other_something_else(scope: tuple[int, int, str]) -> None:
    seed, step, stream = scope
    one = all_draws(Draws(scope, 4))
    again = all_draws(Draws((seed, step, stream), 4))
    assert all(map(torch.equal, one, again))
    for other in ((seed + 1, step, stream), (seed, step + 1, stream), (seed, step, stream + "_")):
        assert not any(map(torch.equal, one, all_draws(Draws(other, 4))))


def test_names_are_independent_streams_and_the_order_of_calls_does_not_matter() -> None:
    draws = Draws((0, 0, "x"), 2000)
    a, b = draws.uniform("a"), draws.uniform("b")
    assert abs(float(torch.corrcoef(torch.stack([a, b]))[0, 1])) < 0.08  # 3.5 standard deviations of 0
    assert torch.equal(draws.uniform("a"), a)
    rows = draws.normal("n", torch.empty(2000, 3))
    assert abs(float(torch.corrcoef(rows.T)[0, 1])) < 0.08
    assert len(torch.unique(rows)) > 5900


def test_ranges_and_moments() -> None:
    draws = Draws((3, 1, "x"), 4000)
    u = draws.uniform("u", low=2.0, high=4.0)
    assert u.min() >= 2
    assert u.max() < 4
    assert float(u.mean()) == pytest.approx(3.0, abs=0.04)
    assert set(draws.integers("i", 3).tolist()) == {0, 1, 2}
    n = draws.normal("n", torch.empty(4000, 2))
    assert float(n.mean()) == pytest.approx(0.0, abs=0.05)
    assert float(n.std()) == pytest.approx(1.0, abs=0.05)


def test_keys_are_fixed_for_ever() -> None:
    """The number was computed with hashlib alone. Another value here means that stored runs cannot be resumed."""
    assert key(0, "network", 0) == 2281228221612414945
    assert key(1, 23) != key(12, 3)
    assert 0 <= key("a") < 2**63


def test_seeded_restores_the_global_generators() -> None:
    torch.manual_seed(7)
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate())  # noqa: NPY002
    with seeded(0, "x"):
        first = torch.rand(3)
    with pytest.raises(RuntimeError, match="cannot be multiplied"), seeded(0, "y"):
        torch.rand(3, 2) @ torch.rand(3, 2)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]
    with seeded(0, "x"):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.rand(3, generator=generator(0, "x")), first)
