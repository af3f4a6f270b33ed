"""What survives a kill, a full disk or a broken file: the last two checkpoints of a run, written by the first rank.

last.safetensors is the newest, previous.safetensors the one before. A new one is written beside them, flushed, and
only then takes its place: at every moment at least one of them is whole. A broken one is set aside as
broken.safetensors, so that it never takes the place of a whole one.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from medkd.engine.checkpoint import pack_state, sync_folder, unpack_state, write_whole
from medkd.engine.runtime import Runtime
from medkd.engine.tracking import Tracker
from medkd.errors import InputError

LAST, PREVIOUS, BROKEN = "last.safetensors", "previous.safetensors", "broken.safetensors"
FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the disk quota is used up", errno.EFBIG: "the file is too big"}


class TrainingError(RuntimeError):
    """Training cannot go on (exit code 1)."""


class Checkpoints:
    """The checkpoints of a run folder. Without a folder nothing is kept."""

    def __init__(self, folder: Path | None, runtime: Runtime, tracker: Tracker):
        self.folder, self.runtime, self.tracker = folder, runtime, tracker

    def newest(self) -> dict[str, Any] | None:
        """The newest whole checkpoint, read by the first rank and sent to all; None if there is none at all.

        Raises InputError: none that is there is whole, or it was written by another number of processes.
        """
        if self.folder is None:
            return None
        data = self.runtime.from_first(self._read() if self.runtime.leads else None)
        if data is None:
            return None
        state = unpack_state(data, LAST)
        world = state.get("world", 1)
        if world != self.runtime.world:
            raise InputError(
                f"the run was made by {world} processes, here are {self.runtime.world}; it continues exactly only with "
                "as many, because dropout and batch statistics depend on how a batch is split: start as many "
                "(torchrun --nproc-per-node), or train anew with --overwrite"
            )
        return state

    def save(self, state: dict[str, Any]) -> None:
        """Make `state` the newest checkpoint. Raises TrainingError if it cannot be written; the others stay."""
        if self.folder is None or not self.runtime.leads:
            return
        last, previous = self.folder / LAST, self.folder / PREVIOUS
        with readable_disk_errors(f"the checkpoint of step {state['global_step']} was not written"):
            fresh = write_whole(last, pack_state({"world": self.runtime.world, **state}))
            if last.exists():
                last.replace(previous)
            fresh.replace(last)
            sync_folder(self.folder)

    def _read(self) -> bytes | None:
        assert self.folder is not None
        problems = []
        for path in (self.folder / LAST, self.folder / PREVIOUS):
            if not path.exists():
                continue
            try:
                data = path.read_bytes()
                step = unpack_state(data, path.name)["global_step"]
            except (InputError, OSError, KeyError) as error:
                problems.append(str(error))
                continue
            if problems:
                (self.folder / LAST).replace(self.folder / BROKEN)
                self.tracker.note(f"{LAST} is broken; going on from {PREVIOUS}, step {step}")
            elif path.name == PREVIOUS:
                self.tracker.note(f"{LAST} is missing; going on from {PREVIOUS}, step {step}")
            return data
        if problems:
            raise InputError([*problems, "no checkpoint of this run is whole; train anew with --overwrite"])
        return None


@contextmanager
def readable_disk_errors(what: str) -> Iterator[None]:
    """A full disk ends the run with one line instead of a traceback."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        where = f" ({error.filename})" if error.filename else ""
        raise TrainingError(
            f"{FULL[error.errno]}{where}: {what}. What was saved before is intact: make room and continue with --resume"
        ) from None
