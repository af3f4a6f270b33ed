"""A run folder looked at from outside, while its process writes it or after a kill at any moment."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from processes import Process, until

from medkd.engine.checkpoint import load_state
from medkd.engine.recovery import LAST, PREVIOUS
from medkd.errors import InputError

TIMES = {"iterations_per_second", "data_share"}


def newest_step(out: Path) -> int:
    """The step of the newest whole checkpoint, 0 without one.

    Between the two renames of a save there is no last.safetensors: the newest is then previous.safetensors.
    """
    for name in (LAST, PREVIOUS):
        try:
            return int(load_state(out / name)["global_step"])
        except InputError:
            continue
    return 0


def reach(process: Process, out: Path, step: int) -> None:
    """Wait until the run has a checkpoint of that step, or a later one."""
    until(lambda: newest_step(out) >= step or process.poll() is not None, 200)
    assert newest_step(out) >= step, process.text()


def log_rows(out: Path) -> list[dict[str, Any]]:
    """What the run measured: without the times, and without the notes, which say how it was disturbed."""
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows if row["kind"] != "note"]
