"""SIGTERM and SIGINT end a run after a step, saved; a second one, or silence, ends it without."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from processes import Process, until
from toy_problem import CPU, Stream, Task, equal_trees, network, phase

from medkd.cli.app import run as cli
from medkd.engine.checkpoint import load_state
from medkd.engine.fit import fit
from medkd.engine.method import Batch
from medkd.engine.signals import Stopped, StopRequest, stop_requests

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signalling(Stream):
    """A stream that sends this process a signal while it makes the batch of step 3, and waits until it is seen."""

    def __init__(self, number: int, stop: StopRequest):
        super().__init__()
        self.number, self.stop = number, stop

    def batch(self, global_step: int) -> Batch:
        if global_step == 3:
            os.kill(os.getpid(), self.number)
            assert until(lambda: self.stop.requested, 30)
        return super().batch(global_step)


def none_but(threads: set[threading.Thread]) -> bool:
    """Whether every other thread ends."""
    return until(lambda: threads.issuperset(threading.enumerate()), 30)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_after_the_step_and_it_goes_on_exactly(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = fit([phase(steps=6)], network, Task(), CPU, 0)
    before, threads = signal.getsignal(number), set(threading.enumerate())
    with (
        stop_requests(patience=60.0) as stop,
        pytest.raises(Stopped, match="stopped on request after step 4 of phase only"),
    ):
        fit([phase(steps=6, stream=Signalling(number, stop))], network, Task(), CPU, 0, out=tmp_path, stop=stop)
    assert signal.getsignal(number) == before
    assert none_but(threads)  # the one that watches has said it
    assert f"{signal.Signals(number).name}: stopping after this step" in capfd.readouterr().err
    assert load_state(tmp_path / "last.safetensors")["global_step"] == 4
    resumed = fit([phase(steps=6)], network, Task(), CPU, 0, out=tmp_path, resume=True)
    assert equal_trees([resumed.best, resumed.last], [whole.best, whole.last])


def test_the_exit_code_is_3_and_the_message_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise Stopped("stopped on request after step 4 of phase only; RUN is saved, continue with --resume")

    monkeypatch.setattr("medkd.runs.train.train", stopped)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("phases: [{name: a, method: {kind: supervised}, steps: 1}]")
    assert cli(["train", str(recipe), "--out", str(tmp_path / "run")]) == 3
    assert "continue with --resume" in capsys.readouterr().err


def test_outside_the_main_thread_there_are_no_requests() -> None:
    seen: list[StopRequest] = []

    def inside() -> None:
        with stop_requests() as stop:
            seen.append(stop)

    thread = threading.Thread(target=inside)
    thread.start()
    thread.join()
    assert not seen[0].requested


def test_blocks_may_follow_each_other_and_leave_no_thread() -> None:
    threads = set(threading.enumerate())
    for _ in range(3):
        with stop_requests():
            assert not threads.issuperset(threading.enumerate())
    assert none_but(threads)


HANGING = """
import sys, time
from medkd.engine.signals import stop_requests
with stop_requests(patience={patience}) as stop:
    print("ready", flush=True)
    {body}
"""


def hanging(body: str, patience: float, act: Callable[[Process], None]) -> tuple[int, float, str]:
    """Exit code, seconds after `act`, and output of a process that does not answer."""
    with Process([sys.executable, "-c", HANGING.format(body=body, patience=patience)]) as process:
        says(process, "ready\n")
        started = time.monotonic()
        act(process)
        text = process.end(within=60)
        return process.returncode, time.monotonic() - started, text


def says(process: Process, text: str) -> None:
    assert until(lambda: text in process.text(), 60), process.text()


BLOCKED = "import threading; threading.Lock().acquire(); l = threading.Lock(); l.acquire(); l.acquire()"


@pytest.mark.parametrize("number", SIGNALS)
def test_an_unanswered_request_ends_the_process_without_saving(number: int) -> None:
    """The main thread waits inside C, as in a collective whose other side is gone: no Python handler can run there."""
    code, seconds, text = hanging(BLOCKED, 1.0, lambda p: p.send_signal(number))
    assert code == 128 + number
    assert 0.9 < seconds < 20
    assert "no answer within 1 s: leaving without saving" in text


def test_a_second_signal_ends_the_process_at_once() -> None:
    def twice(process: Process) -> None:
        process.send_signal(signal.SIGINT)
        says(process, "SIGINT: stopping after this step")
        time.sleep(2.3)
        process.send_signal(signal.SIGINT)

    code, seconds, text = hanging(BLOCKED, 30.0, twice)
    assert code == 128 + signal.SIGINT
    assert seconds < 20
    assert "a second SIGINT: leaving without saving" in text


def test_signals_within_two_seconds_are_one_request_and_an_answer_has_time() -> None:
    """A scheduler and torchrun both send one. Answered, the process may take longer than the patience."""

    def twice(process: Process) -> None:
        process.send_signal(signal.SIGTERM)
        says(process, "SIGTERM: stopping after this step")
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)

    body = "while not stop.requested: time.sleep(0.05)\n    stop.answer(); time.sleep(5.5); print('saved')"
    code, _, text = hanging(body, 5.0, twice)
    assert code == 0, text


def test_a_request_without_a_folder_still_ends_the_run() -> None:
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(Stopped, match="after step 1"):
        fit([phase()], network, Task(), CPU, 0, stop=stop)
    assert stop.answered
    assert torch.is_grad_enabled()
