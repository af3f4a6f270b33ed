"""Named regions of one scan as one integer label, where regions may overlap."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from medkd.errors import InputError, raise_all


def merge(
    regions: Iterable[tuple[int, str, np.ndarray]], shape: tuple[int, ...], *, ordered: bool = False
) -> np.ndarray:
    """A label of `shape`, 0 outside every region, in the smallest unsigned type that holds the values.

    regions: value (1 or more), name and mask (bool, of `shape`) of each. Regions that share voxels are refused by an
    InputError that names them, unless they are `ordered`: then they are painted one after the other, the last on top.
    """
    label = np.zeros(shape, np.uint32)
    names: dict[int, str] = {}
    problems = []
    for value, name, mask in regions:
        if value < 1 or value in names:
            raise ValueError(f"region {name!r} has the value {value}; each needs its own, from 1 on")
        if not ordered:
            below, counts = np.unique(label[mask], return_counts=True)
            problems += [f"{names[b]!r} and {name!r} share {n} voxels" for b, n in zip(below, counts) if b]
        label[mask] = value
        names[value] = name
    if problems:
        problems[-1] += "; say in which order they lie, the last on top"
    raise_all(problems)
    return label.astype(np.min_scalar_type(max(names, default=0)))


def chosen(wanted: Iterable[int], allowed: Iterable[int], what: str) -> list[int]:
    """The wanted numbers, in their order. Raises InputError where one is not allowed, or comes twice."""
    wanted, allowed = list(wanted), sorted(allowed)
    if strange := sorted(set(wanted) - set(allowed)):
        raise InputError(f"there is no {what} {', '.join(map(str, strange))}; there are {', '.join(map(str, allowed))}")
    if twice := sorted({number for number in wanted if wanted.count(number) > 1}):
        raise InputError(f"{what} {', '.join(map(str, twice))} is asked for twice")
    return wanted
