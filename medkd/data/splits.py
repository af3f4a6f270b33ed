"""Splits by patient: seeded, patient-pure, with k labelled training patients.

Names are ordered by a keyed hash, not by a random generator, so that a split is the same on every machine and for every
version of numpy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from medkd.data.dataset import SPLITS
from medkd.errors import InputError


def shuffled(names: Iterable[str], *key: object) -> list[str]:
    """The names in an order that depends on nothing but `key` and the names."""
    return sorted(names, key=lambda name: hashlib.blake2b("|".join(map(str, (*key, name))).encode()).digest())


def share_problems(shares: Sequence[float]) -> list[str]:
    """What is wrong with shares of train, val and test."""
    if len(shares) == 3 and min(shares) >= 0 and abs(sum(shares) - 1) <= 1e-6:
        return []
    return [f"split is {'/'.join(f'{v:g}' for v in shares)}; three shares that sum to 1 are needed, 0.7/0.1/0.2"]


def split_patients(
    complete: Mapping[str, bool], shares: Sequence[float], labelled: int, seed: int, reserved: Collection[str] = ()
) -> dict[str, str]:
    """Patient -> split, drawn with `seed`.

    complete: patient -> whether every scan has a label. Validation and test need labels, so both are drawn from the
    complete patients, and enough of them stay in train for `labelled`. reserved: patients that must be in train.
    Raises InputError if a split with a share would stay empty, or labels are too few.
    """
    order = shuffled(complete, seed, "split")
    train, held_out = (round(v) for v in np.cumsum(shares)[:2] * len(order))
    sizes = {"train": train, "val": held_out - train, "test": len(order) - held_out}
    if empty := [s for s, share in zip(SPLITS, shares) if share > 0 and not sizes[s]]:
        raise InputError(f"{len(order)} patients are too few for a split with {' and '.join(empty)}")
    free = [name for name in order if complete[name] and name not in reserved]
    wanted = sizes["test"] + sizes["val"] + max(0, labelled - len(reserved))
    if wanted > len(free) and wanted <= len(order):
        raise InputError(
            f"val and test take {sizes['val'] + sizes['test']} patients and labelled {labelled}, all with a label for "
            f"every scan, but {len(free) + len(reserved)} have that; label more, or lower --split or --labelled"
        )
    drawn = dict.fromkeys(free[: sizes["test"]], "test")
    drawn |= dict.fromkeys(free[sizes["test"] : sizes["test"] + sizes["val"]], "val")
    return {name: drawn.get(name, "train") for name in order}


def choose_labelled(candidates: Sequence[str], labelled: int) -> set[str]:
    """The first `labelled` of the training patients that can be labelled, in the order given."""
    if not 0 < labelled <= len(candidates):
        raise InputError(
            f"labelled is {labelled}; allowed: 1 to {len(candidates)}, the training patients that can be labelled"
        )
    return set(candidates[:labelled])
