"""Card bcp.md, invariant 16, and what exact resume needs: the samples of a step are a function of the step."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.data.sampler import _pass, indices

SIZES = st.tuples(st.integers(1, 40), st.integers(1, 17))


def read(seed: int, name: str, samples: int, batch: int, steps: int) -> np.ndarray:
    return np.concatenate([indices(seed, name, samples, batch, step) for step in range(steps)])


@settings(max_examples=60)
@given(SIZES, st.integers(0, 3))
def test_no_sample_repeats_within_a_pass_and_what_is_left_opens_the_next_batch(
    sizes: tuple[int, int], seed: int
) -> None:
    """Cut the run of all batches into passes: each holds every sample once. Nothing is dropped at a pass's end."""
    samples, batch = sizes
    run = read(seed, "labelled", samples, batch, -(-3 * samples // batch))
    assert len(run) >= 3 * samples
    for number in range(3):
        assert sorted(run[number * samples : (number + 1) * samples]) == list(range(samples))


@settings(max_examples=40)
@given(SIZES, st.integers(0, 200))
def test_a_step_is_read_without_those_before_it(sizes: tuple[int, int], step: int) -> None:
    samples, batch = sizes
    _pass.cache_clear()
    alone = indices(0, "labelled", samples, batch, step)
    assert len(alone) == batch
    first = step * batch
    whole = np.concatenate([_pass(0, "labelled", samples, n) for n in range((first + batch) // samples + 1)])
    assert alone.tolist() == whole[first : first + batch].tolist()


def test_batches_of_another_size_read_the_same_run() -> None:
    """The labelled order is one run, whatever the batch: arms with different batch sizes see the same samples."""
    assert read(1, "labelled", 7, 2, 21).tolist() == read(1, "labelled", 7, 6, 7).tolist()


def test_streams_passes_and_seeds_are_shuffled_independently() -> None:
    base = read(0, "labelled", 30, 5, 6)
    assert read(0, "labelled", 30, 5, 6).tolist() == base.tolist()
    for other in (read(0, "unlabelled", 30, 5, 6), read(1, "labelled", 30, 5, 6), read(0, "labelled", 30, 5, 12)[30:]):
        assert sorted(other) == sorted(base)
        assert other.tolist() != base.tolist()
    unlabelled = read(0, "unlabelled", 30, 5, 6)
    read(0, "labelled", 4, 3, 50)  # many labelled passes while one unlabelled pass lasts
    assert read(0, "unlabelled", 30, 5, 6).tolist() == unlabelled.tolist()


def test_every_order_is_equally_likely() -> None:
    orders = [tuple(_pass(seed, "labelled", 3, 0)) for seed in range(1200)]
    counts = [orders.count(order) for order in set(orders)]
    assert len(counts) == 6
    assert all(abs(count - 200) < 60 for count in counts)  # 4.6 standard deviations
