"""Processes that tests start: waited for with a limit, what they said is in the failure, and none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from torch.distributed import TCPStore


def until(true: Callable[[], bool], within: float) -> bool:
    """Wait until it is true, at most `within` seconds; whether it is."""
    end = time.monotonic() + within
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class Process(subprocess.Popen[bytes]):
    """A process of one thread and of no group of ranks, unless `environment` says so, with both outputs in one file.

    At the end of its `with` block it is killed if it still runs, and so is all that it started.
    """

    def __init__(self, command: Sequence[str], **environment: str) -> None:
        # Not a pipe: one that nobody reads fills up and stops who writes.
        self.output = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        inherited = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
        environment = inherited | {"OMP_NUM_THREADS": "1"} | environment
        super().__init__(command, env=environment, stdout=self.output, stderr=subprocess.STDOUT)

    def text(self) -> str:
        """What it has said so far."""
        number = self.output.fileno()  # read with pread, which does not move where the process writes
        return os.pread(number, os.fstat(number).st_size, 0).decode(errors="replace")

    def end(self, within: float) -> str:
        """What it said, when it has ended, with whatever exit code."""
        assert until(lambda: self.poll() is not None, within), f"still running after {within} s:\n{self.text()}"
        return self.text()

    def __exit__(self, *error: object) -> None:
        for number in _tree(self.pid) if self.poll() is None else ():
            with contextlib.suppress(ProcessLookupError):
                os.kill(number, signal.SIGKILL)
        self.wait()
        self.output.close()


def finished(processes: Sequence[Process], within: float) -> list[str]:
    """What each said, when all have ended with exit code 0. Nobody waits for the others of one that failed."""

    def codes() -> list[int | None]:
        return [process.poll() for process in processes]

    until(lambda: None not in codes() or any(codes()), within)
    texts = [process.text() for process in processes]
    assert codes() == [0] * len(processes), f"{codes()} after at most {within} s:\n" + "\n".join(texts)
    return texts


@contextlib.contextmanager
def ranks(command: Sequence[str], world: int, **environment: str) -> Iterator[list[Process]]:
    """One process a rank, started as torchrun starts them on one node.

    As torchrun does, this process holds the store in which they meet: its port is open before they are told of it.
    """
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(store.port), "WORLD_SIZE": str(world)}
    environment |= {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    with contextlib.ExitStack() as stack:
        yield [
            stack.enter_context(Process(command, **environment, RANK=str(rank), LOCAL_RANK=str(rank)))
            for rank in range(world)
        ]


def _tree(number: int) -> list[int]:
    """A process, and on Linux all below it: torchrun's workers are in sessions of their own."""
    found = [number]
    for task in Path(f"/proc/{number}/task").glob("*/children"):
        with contextlib.suppress(OSError):  # it has just ended
            found += [below for child in task.read_text().split() for below in _tree(int(child))]
    return found
