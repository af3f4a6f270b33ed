"""Stopping on request: SIGTERM (a scheduler) and SIGINT (a person) end a run after a step, with a checkpoint.

A thread sees the signal even while the main thread waits inside a collective or a kernel. The loop asks `requested`
once a step; the ranks agree on it, save, and leave together. A second signal, or no answer within 20 s, ends the
process at once without saving: the checkpoint before is whole.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

PATIENCE = 20.0  # seconds until an unanswered request ends the process
SAME = 2.0  # seconds within which further signals are the same request: a scheduler and torchrun both send one


class StopRequest:
    """Whether somebody asked the run to stop."""

    def __init__(self) -> None:
        self.requested = False
        self.answered = False

    def answer(self) -> None:
        """The loop has seen the request: from here on it may take its time to save."""
        self.answered = True


class Stopped(RuntimeError):
    """The run ended on request, after a step (exit code 3)."""


@contextmanager
def stop_requests(patience: float = PATIENCE) -> Iterator[StopRequest]:
    """Inside the block SIGTERM and SIGINT are requests. Outside the main thread Python allows no handlers: no requests.

    The former handlers are back afterwards.
    """
    stop = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    reading, writing = socket.socketpair()
    writing.setblocking(False)
    wakeup = signal.set_wakeup_fd(writing.fileno(), warn_on_full_buffer=False)
    handlers = {s: signal.signal(s, lambda *_: None) for s in (signal.SIGTERM, signal.SIGINT)}
    threading.Thread(target=_watch, args=(reading, stop, patience), daemon=True).start()
    try:
        yield stop
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(wakeup)
        writing.close()  # ends the thread


def _watch(reading: socket.socket, stop: StopRequest, patience: float) -> None:
    first, asked = 0.0, signal.SIGTERM
    with reading:
        while True:
            reading.settimeout(max(0.01, first + patience - time.monotonic()) if first and not stop.answered else None)
            try:
                received = reading.recv(1)
            except TimeoutError:
                if stop.answered:
                    continue
                _leave(f"no answer within {patience:.0f} s", asked)
            if not received:
                return
            number = received[0]
            if number not in (signal.SIGTERM, signal.SIGINT):
                continue
            if not first:
                first, asked, stop.requested = time.monotonic(), signal.Signals(number), True
                _say(f"{asked.name}: stopping after this step")
            elif time.monotonic() - first > SAME:
                _leave(f"a second {signal.Signals(number).name}", number)


def _leave(why: str, number: int) -> None:
    _say(f"{why}: leaving without saving; the last checkpoint is whole, continue with --resume")
    os._exit(128 + number)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
