"""Claims that a few seconds of one core can test: what is compared, the rule of judgement, and one JSON line a seed.

OUT/claims/NAME.jsonl   one line a finished seed; a re-run skips what has one
OUT/claims/NAME.png     every arm, seed and metric
OUT/claims.md           all claims that have lines (medkd/claims/small_page.py)

The rule, fixed before any number was looked at: a statement "A over B" is judged by the difference A - B of each seed.
If the 95 % t-interval of its mean lies above the statement's margin "the direction holds", if it lies below "does not
hold here", else it is "within noise". The verdict of a claim is the weakest among the statements that its authors make;
statements that are only reported do not count.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from scipy import stats

import medkd
from medkd.claims.accounting import processor
from medkd.data.dataset import write_whole
from medkd.engine.tracking import read_log

Scores = Mapping[str, Mapping[str, float]]
"""Arm -> metric -> value. An arm may lack a metric that does not apply to it."""
Line = dict[str, Any]
HOLDS, NOISE, NOT = "the direction holds", "within noise", "does not hold here"


@dataclass(frozen=True)
class Statement:
    """`better` exceeds `worse` in the metric by more than `margin`. A negative margin: it may be so much worse.

    claimed: by the authors; otherwise it is reported beside the claim.
    """

    better: str
    worse: str
    metric: str
    margin: float = 0.0
    claimed: bool = True

    def __str__(self) -> str:
        allowed = f" less {-self.margin:g}" if self.margin < 0 else f" by {self.margin:g}" if self.margin else ""
        return f"{self.better} over {self.worse}{allowed}, {self.metric}"


@dataclass(frozen=True)
class SmallClaim:
    """run(seed) -> Scores of every arm. setting: data, networks, training and what was shrunk, in words.

    arms and metrics: name -> words. lower: the metrics of which less is better. seeds: how many unless told. version:
    raised with every change of the experiment; lines of another version are lines of another experiment.
    """

    setting: str
    arms: Mapping[str, str]
    metrics: Mapping[str, str]
    statements: tuple[Statement, ...]
    run: Callable[[int], Scores]
    seeds: int = 5
    lower: frozenset[str] = field(default=frozenset())
    version: int = 1


def run_missing(
    name: str, claim: SmallClaim, seeds: int, out: Path, console: Console | None = None, page_only: bool = False
) -> list[Line]:
    """Run the seeds 0 .. seeds - 1 that have no line yet; return the lines of all finished seeds."""
    path = lines_file(name, out)
    path.parent.mkdir(parents=True, exist_ok=True)
    for seed in () if page_only else range(seeds):
        if any(line["seed"] == seed for line in finished(name, claim, out)):
            continue
        if console:
            console.print(f"{name}: seed {seed}")
        line = make(claim, seed)
        write_whole(path, "".join(json.dumps(row) + "\n" for row in [*_all_lines(path), line]))
    return finished(name, claim, out)


def make(claim: SmallClaim, seed: int) -> Line:
    """One seed of every arm, on one thread: what a training of many steps ends at depends on their number. Its line."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _made(claim, seed)
    finally:
        torch.set_num_threads(before)


def _made(claim: SmallClaim, seed: int) -> Line:
    wall, cpu = time.perf_counter(), time.process_time()
    scores = claim.run(seed)
    return {
        "seed": seed,
        "version": claim.version,
        "scores": {arm: {metric: float(value) for metric, value in row.items()} for arm, row in scores.items()},
        "seconds": round(time.perf_counter() - wall, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": processor(),
        "torch": torch.__version__,
        "medkd": medkd.__version__,
    }


def finished(name: str, claim: SmallClaim, out: Path) -> list[Line]:
    """The lines of this version of the claim, by seed."""
    lines = [line for line in _all_lines(lines_file(name, out)) if line["version"] == claim.version]
    return sorted(lines, key=lambda line: line["seed"])


def lines_file(name: str, out: Path) -> Path:
    return out / "claims" / f"{name}.jsonl"


def _all_lines(path: Path) -> list[Line]:
    return read_log(path) if path.exists() else []


def values(lines: Sequence[Line], arm: str, metric: str) -> list[float]:
    """One value a seed; empty for an arm without the metric."""
    return [line["scores"][arm][metric] for line in lines if metric in line["scores"].get(arm, {})]


def summarise(name: str, words: str, claim: SmallClaim, lines: Sequence[Line]) -> dict[str, Any]:
    """Mean and sd of every arm, every statement with its interval and judgement, the verdict and the cost."""
    arms = {
        arm: {metric: _spread(values(lines, arm, metric)) for metric in claim.metrics if values(lines, arm, metric)}
        for arm in claim.arms
    }
    statements = [judged(claim, statement, lines) for statement in claim.statements]
    machine = ("processor", "cores", "threads", "torch", "medkd")
    return {
        "claim": name,
        "words": words,
        "setting": claim.setting,
        "command": f"medkd reproduce {name} --seeds {len(lines)}",
        "seeds": [line["seed"] for line in lines],
        "arms": arms,
        "statements": statements,
        "verdict": verdict(statements),
        "cpu_seconds": round(sum(line["cpu_seconds"] for line in lines), 1),
        "hardware": {key: sorted({str(line[key]) for line in lines}) for key in machine},
    }


def judged(claim: SmallClaim, statement: Statement, lines: Sequence[Line]) -> dict[str, Any]:
    """The paired differences of a statement, positive where `better` is better, their interval and what they say."""
    pairs = zip(*(values(lines, arm, statement.metric) for arm in (statement.better, statement.worse)))
    sign = -1.0 if statement.metric in claim.lower else 1.0
    difference = np.array([sign * (a - b) for a, b in pairs])
    low, high = interval(difference)
    return {
        "better": statement.better,
        "worse": statement.worse,
        "metric": statement.metric,
        "margin": statement.margin,
        "claimed": statement.claimed,
        "text": str(statement),
        "by_seed": difference.round(6).tolist(),
        "mean": round(float(difference.mean()), 6) if len(difference) else None,
        "interval": [round(low, 6), round(high, 6)] if len(difference) > 1 else None,
        "judgement": judgement(low, high, statement.margin) if len(difference) > 1 else "too few seeds to judge",
    }


def interval(difference: np.ndarray) -> tuple[float, float]:
    """95 % t-interval of the mean of n values; without limits for n < 2."""
    n = len(difference)
    if n < 2:
        return -np.inf, np.inf
    half = float(stats.t.ppf(0.975, n - 1)) * float(difference.std(ddof=1)) / n**0.5
    mean = float(difference.mean())
    return mean - half, mean + half


def judgement(low: float, high: float, margin: float = 0.0) -> str:
    """In words.

    >>> [judgement(*ends) for ends in ((0.1, 0.3), (-0.1, 0.3), (-0.3, -0.1))]
    ['the direction holds', 'within noise', 'does not hold here']
    """
    return HOLDS if low > margin else NOT if high < margin else NOISE


def verdict(statements: Sequence[Mapping[str, Any]]) -> str:
    """The weakest judgement among the claimed statements."""
    found = {s["judgement"] for s in statements if s["claimed"]}
    return next((words for words in (NOT, NOISE, HOLDS) if words in found), "too few seeds to judge")


def _spread(found: Sequence[float]) -> dict[str, Any]:
    return {
        "mean": round(float(np.mean(found)), 6),
        "sd": round(float(np.std(found, ddof=1)), 6) if len(found) > 1 else None,
        "by_seed": [round(v, 6) for v in found],
    }
