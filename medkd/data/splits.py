"""Splits by patient: seeded, patient-pure, with k labelled training patients."""

from __future__ import annotations

import numpy as np

from medkd.engine.randomness import key
from medkd.errors import InputError


def split_patients(
    patients: list[str], fractions: tuple[float, float, float], labelled: int, seed: int
) -> tuple[dict[str, str], set[str]]:
    """Patient -> split, and the labelled training patients, drawn with `seed` from the sorted patient names.

    fractions: of train, val and test. Raises InputError if a split with a share stays empty or training is too small.
    """
    names = sorted(set(patients))
    if min(fractions) < 0 or abs(sum(fractions) - 1) > 1e-6:
        raise InputError(
            f"split is {'/'.join(map(str, fractions))}; three shares that sum to 1 are needed, 0.7/0.1/0.2"
        )
    order = np.random.default_rng(key(seed, "split")).permutation(len(names))
    ends = np.round(np.cumsum(fractions) * len(names)).astype(int)
    splits = {
        names[i]: ("train", "val", "test")[int(np.searchsorted(ends, n, side="right"))] for n, i in enumerate(order)
    }
    train = [names[i] for i in order if splits[names[i]] == "train"]
    empty = [s for s, share in zip(("train", "val", "test"), fractions) if share > 0 and s not in splits.values()]
    if empty:
        raise InputError(f"{len(names)} patients are too few for a split with {' and '.join(empty)}")
    return splits, choose_labelled(train, labelled)


def choose_labelled(train: list[str], labelled: int) -> set[str]:
    """The first `labelled` of the training patients, in the order given."""
    if not 0 < labelled <= len(train):
        raise InputError(f"labelled is {labelled}; allowed: 1 to {len(train)}, the number of training patients")
    return set(train[:labelled])
