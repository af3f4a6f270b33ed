"""What Distil compares: the tensors of both networks by path, their shapes, and whether a loss can be made of them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from medkd.distill.loss_options import LossOptions
from medkd.engine.taps import module_of
from medkd.errors import InputError

Found = Mapping[str, Tensor]
"""Tensors by the path of the module that gave them; the logits under LOGITS."""


@dataclass(frozen=True)
class Compared:
    """What a loss is built for: the shapes of the tensors of both sides, in pairs, and the classes."""

    student: tuple[torch.Size, ...]
    teacher: tuple[torch.Size, ...]
    classes: int

    @property
    def channels(self) -> tuple[int, int]:
        """Of the first pair."""
        return self.student[0][1], self.teacher[0][1]

    @property
    def dims(self) -> int:
        """Axes of space."""
        return len(self.student[0]) - 2


def compared(options: LossOptions, mine: Found, theirs: Found, classes: int) -> Compared:
    """The pair of a loss. Raises InputError, naming paths and shapes, for tensors that it cannot compare."""
    paths = options.paths()
    sides = [[found[path] for path in side] for found, side in zip((mine, theirs), paths)]
    for s, t, *names in zip(*sides, *paths):
        what = f"{options.kind} compares {told('student', names[0], s)} with {told('teacher', names[1], t)}"
        if options.same_axes and s.ndim != t.ndim:
            raise InputError(f"{what}: the numbers of axes differ")
        if options.takes == "maps" and s.ndim < 3:
            raise InputError(f"{what}, but needs maps over space; name modules before the pooling")
        if options.same_size and s.shape[2:] != t.shape[2:]:
            raise InputError(f"{what}, position by position; name modules whose maps have one size")
    if options.takes == "vectors":
        sides = [[pooled(x) for x in side] for side in sides]
    student, teacher = (tuple(x.shape for x in side) for side in sides)
    return Compared(student, teacher, classes)


def told(side: str, path: str, x: Tensor) -> str:
    shape = " x ".join(map(str, x.shape[1:]))
    return f"the {side}'s {path or 'logits'} ({shape})"


def pooled(x: Tensor) -> Tensor:
    """(B, C) of (B, C, *S): the mean over positions."""
    return x.flatten(2).mean(2) if x.ndim > 2 else x


def known(side: str, network: nn.Module, paths: Sequence[str]) -> None:
    """Raise InputError for a path that the network does not have."""
    modules = [path for path, _ in network.named_modules()]
    for path in map(module_of, paths):
        if path not in modules:
            near = difflib.get_close_matches(path, modules, n=3, cutoff=0.3)
            raise InputError(
                f"the {side}, {type(network).__name__}, has no module {path!r}; it has "
                f"{', '.join(near or [m for m in modules if m and '.' not in m])}"
            )
