"""The record of a run: log.jsonl always, TensorBoard events, and a progress bar for people."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class Tracker:
    """Writes one JSON object a row. With `out` None nothing is written, and with `console` None nothing is shown."""

    def __init__(self, out: Path | None = None, console: Console | None = None, total: int = 0):
        self.rows: list[dict[str, Any]] = []
        self._path = out / "log.jsonl" if out else None
        self._events_folder = out / "tensorboard" if out else None
        self._events: Any = None
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console or Console(quiet=True),
        )
        self._bar = self._progress.add_task("starting", total=total, rate="")

    def __enter__(self) -> Tracker:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()
        if self._events is not None:
            self._events.close()

    def rewind(self, global_step: int) -> None:
        """Forget the rows after `global_step`: a resumed run writes them again."""
        self._progress.update(self._bar, completed=global_step)
        if self._path is None or not self._path.exists():
            return
        self.rows = [row for row in read_log(self._path) if row.get("global_step", 0) <= global_step]
        temporary = self._path.with_suffix(".partial")
        temporary.write_text("".join(json.dumps(row) + "\n" for row in self.rows))
        temporary.replace(self._path)

    def row(self, kind: str, **values: Any) -> None:
        """Append a row; numbers also go to TensorBoard under `kind/name`."""
        row = {"kind": kind, **values}
        self.rows.append(row)
        if self._path is None:
            return
        with self._path.open("a") as file:
            file.write(json.dumps(row) + "\n")
        if self._events is None:
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self._events_folder))
        step = values.get("global_step", 0)
        for name, value in values.items():
            if isinstance(value, float):
                self._events.add_scalar(f"{kind}/{name}", value, step)

    def note(self, text: str) -> None:
        """Something the reader of the run must know: shown at once, and kept in the log."""
        self._progress.console.print(text)
        self.row("note", text=text, global_step=int(self._progress.tasks[self._bar].completed))

    def advance(self, phase: str, global_step: int, rate: str) -> None:
        """Move the progress bar."""
        self._progress.update(self._bar, completed=global_step, description=phase, rate=rate)


def read_log(path: Path) -> list[dict[str, Any]]:
    """The rows of a log; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class Clock:
    """Seconds of wall time since the start, by part: `data` is the time spent waiting for batches."""

    def __init__(self) -> None:
        self.start = time.perf_counter()
        self.data = 0.0
        self.steps = 0

    def report(self) -> dict[str, float]:
        """Iterations a second and the share of the time spent on data, since the last report."""
        now = time.perf_counter()
        elapsed = max(now - self.start, 1e-9)
        values = {"iterations_per_second": self.steps / elapsed, "data_share": self.data / elapsed}
        self.start, self.data, self.steps = now, 0.0, 0
        return values
