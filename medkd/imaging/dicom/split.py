"""Slices that lie at one position, told apart: the volumes of a 4-D series."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from medkd.imaging.dicom.frames import Frame
from medkd.imaging.dicom.stack import directions_of, no_distance

IN_TIME = {"time", "trigger time", "frame time", "acquisition", "acquired at", "content time", "instance", "diffusion"}
ORDER = ("time", "stack", "echo", "echo time", "b value", "diffusion", "trigger time", "frame time", "type",
         "acquisition", "acquired at", "content time", "instance")  # fmt: skip
MOST_KEYS = 3  # that are combined


@dataclass
class Part:
    """Slices of one volume. time: its place in time, or None if it differs otherwise (echo, ...) or is the only one."""

    frames: Sequence[Frame]
    time: int | None = None
    name: str = ""
    problems: list[tuple[str, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def split(frames: Sequence[Frame]) -> list[Part]:
    """Slices of one grid as volumes, each with at most one slice a position, in order.

    By the first header value, or combination of up to three, that gives as many volumes as slices share a position;
    else, if every position has equally many, by instance number. Slices that cannot be told apart stay together, and
    their stack will say so. A volume that lacks positions of the others has a problem that says so.
    """
    places = _places(frames)
    depth = max(Counter(places).values())
    if places[0] is None or depth == 1 or len(set(places)) == 1:
        return [Part(frames)]
    varying = [key for key in ORDER if len({frame.keys.get(key) for frame in frames}) > 1]
    for count in range(1, MOST_KEYS + 1):
        for keys in combinations(varying, count):
            values = [tuple(frame.keys.get(key, "") for key in keys) for frame in frames]
            if len(set(values)) == depth and len(set(zip(values, places, strict=True))) == len(frames):
                return _parts(frames, places, values, keys)
    if set(Counter(places).values()) == {depth} and len({frame.instance for frame in frames} - {None}) == len(frames):
        parts = _parts(frames, places, _ranks(frames, places), ("instance",))
        for part in parts:
            part.notes.append("no header value tells its volumes apart: split by instance number at each position")
        return parts
    return [Part(frames)]


def _parts(frames: Sequence[Frame], places: Sequence, values: Sequence[tuple], keys: tuple[str, ...]) -> list[Part]:
    groups: dict[tuple, list[int]] = defaultdict(list)
    for index, value in enumerate(values):
        groups[value].append(index)
    parts = []
    in_time = set(keys) <= IN_TIME
    for number, value in enumerate(sorted(groups, key=_sortable)):
        members = groups[value]
        name = f"time {number + 1}" if in_time else ", ".join(map(_word, keys, value))
        part = Part([frames[i] for i in members], number if in_time else None, name)
        if lacking := len(set(places)) - len(members):
            part.problems.append((f"it lacks {lacking} of the {len(set(places))} slice positions of the series", ""))
        parts.append(part)
    return parts


def _places(frames: Sequence[Frame]) -> list[int | None]:
    """Which frames lie at one position: equal numbers; None for all if positions are not known."""
    directions = directions_of(frames[0].orientation) if frames[0].orientation else None
    if directions is None or any(frame.position is None for frame in frames):
        return [None] * len(frames)
    height = np.array([frame.position for frame in frames], np.float64) @ directions[2]
    order = np.argsort(height, kind="stable")
    number = np.empty(len(frames), int)
    number[order] = np.cumsum(np.diff(height[order], prepend=height[order[0]]) > no_distance(frames[0]))
    return number.tolist()


def _ranks(frames: Sequence[Frame], places: Sequence) -> list[tuple]:
    """The place of each frame among those of its position, by instance number."""
    seen: Counter = Counter()
    ranks: list[tuple] = [()] * len(frames)
    for index in sorted(range(len(frames)), key=lambda i: frames[i].instance or 0):
        ranks[index] = (seen[places[index]],)
        seen[places[index]] += 1
    return ranks


def _sortable(value: tuple) -> tuple:
    """Numbers before texts, so that any two values compare."""
    flat: Iterable = (part for item in value for part in (item if isinstance(item, tuple) else (item,)))
    return tuple((isinstance(part, str), part) for part in flat)


def _word(key: str, value: object) -> str:
    """ "echo 2"; a type only by its words, which may hold anything."""
    if isinstance(value, tuple):
        return f"{key} {' '.join(f'{v:g}' for v in value)}"
    return f"{key} {value}"
