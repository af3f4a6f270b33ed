"""Schedules: pure functions of the number of updates completed."""

from __future__ import annotations

import math


def sigmoid_ramp(step: float, length: float) -> float:
    """exp(-5 (1 - min(step, length) / length)^2): .0067 at 0, 1 from `length` on (Laine and Aila 2017); 1 if length 0.

    >>> round(0.1 * sigmoid_ramp(6000 // 150, 200), 8)
    0.00407622
    """
    if length <= 0:
        return 1.0
    return math.exp(-5.0 * (1.0 - min(step, length) / length) ** 2)


def ema_warmup(updates: int, decay: float) -> float:
    """min(1 - 1/(updates + 1), decay): copies the student at first, then averages, then holds (Tarvainen 2017).

    >>> [round(ema_warmup(k, 0.99), 5) for k in (0, 1, 9, 98, 99)]
    [0.0, 0.5, 0.9, 0.9899, 0.99]
    """
    return min(1.0 - 1.0 / (updates + 1), decay)


def poly(step: int, total: int, power: float = 0.9) -> float:
    """(1 - step / total)^power.

    >>> round(0.01 * poly(500, 1000), 8)
    0.00535887
    """
    return float(max(0.0, 1.0 - step / total) ** power)


def staircase(step: int, every: int, factor: float = 0.1) -> float:
    """factor^(step // every).

    >>> round(staircase(5200, 2500), 6)
    0.01
    """
    return float(factor ** (step // every))


def cosine(step: int, total: int, warmup: int = 0) -> float:
    """Linear from 0 over `warmup` updates, then half a cosine to 0.

    >>> [round(cosine(s, 100), 3) for s in (0, 50, 100)]
    [1.0, 0.5, 0.0]
    """
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, (step - warmup) / max(1, total - warmup))))
