"""Reading the rows of log.jsonl (medkd.engine.tracking): by phase, by candidate, as series over the steps of a run.

`train` rows hold a loss, `validation` rows `candidate/metric`; `step` counts within a phase, `global_step` over all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]


def by_phase(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each phase; rows without one form the phase ""."""
    parts: dict[str, list[Row]] = {}
    for row in rows:
        parts.setdefault(str(row.get("phase", "")), []).append(row)
    return parts


def phases(rows: Sequence[Row]) -> list[tuple[str, float, float]]:
    """(name, first, last global step) in order; `step` counts from the start of its phase, so that is known exactly."""
    spans = []
    for name, part in by_phase(rows).items():
        starts = [where(row) - float(row.get("step", where(row))) for row in part]
        spans.append((name, min(starts), max(where(row) for row in part)))
    return sorted(spans, key=lambda span: span[1])


def where(row: Row) -> float:
    """The step of a row, counted from the start of the run."""
    return float(row.get("global_step", row.get("step", 0)))


def series(rows: Sequence[Row], key: str) -> tuple[np.ndarray, np.ndarray]:
    """Global steps and values, in order of the steps; values that are not finite are NaN, which leaves a gap."""
    rows = sorted(rows, key=where)
    values = np.array([float("nan") if row[key] is None else float(row[key]) for row in rows])
    return np.array([where(row) for row in rows]), np.where(np.isfinite(values), values, np.nan)


def candidates(rows: Sequence[Row], metric: str) -> list[str]:
    """The candidates that have the metric, in the order they were logged."""
    end = f"/{metric}"
    return list(dict.fromkeys(key.removesuffix(end) for row in rows for key in row if key.endswith(end)))


def logged(rows: Sequence[Row]) -> str:
    """What could be drawn instead, for an error message."""
    keys = sorted({key for row in rows for key in row if "/" in key or key == "loss"})
    return f"logged: {', '.join(keys)}" if keys else "nothing is logged"
