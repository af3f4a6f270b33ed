"""SIGTERM and SIGINT end a run after a step, saved; a second one, or silence, ends it without."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from toy_problem import CPU, Stream, Task, equal_trees, network, phase

from medkd.cli.app import run as cli
from medkd.engine.checkpoint import load_state
from medkd.engine.fit import fit
from medkd.engine.method import Batch
from medkd.engine.signals import Stopped, StopRequest, stop_requests

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Signalling(Stream):
    """A stream that sends this process a signal while it makes the batch of step 3."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number

    def batch(self, global_step: int) -> Batch:
        if global_step == 3:
            os.kill(os.getpid(), self.number)
            time.sleep(0.2)  # the thread that watches wakes up
        return super().batch(global_step)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_after_the_step_and_it_goes_on_exactly(
    tmp_path: Path, number: int, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = fit([phase(steps=6)], network, Task(), CPU, 0)
    before = signal.getsignal(number)
    with stop_requests() as stop, pytest.raises(Stopped, match="stopped on request after step 4 of phase only"):
        fit([phase(steps=6, stream=Signalling(number))], network, Task(), CPU, 0, out=tmp_path, stop=stop)
    assert signal.getsignal(number) == before
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
    threads = threading.active_count()
    for _ in range(3):
        with stop_requests():
            pass
    time.sleep(0.2)
    assert threading.active_count() == threads


HANGING = """
import sys, time
from medkd.engine.signals import stop_requests
with stop_requests(patience={patience}) as stop:
    print("ready", flush=True)
    {body}
"""


def hanging(body: str, patience: float, act: Callable[[subprocess.Popen[str]], None]) -> tuple[int, float, str]:
    """Exit code, seconds after `act`, and stderr of a process that does not answer."""
    command = [sys.executable, "-c", HANGING.format(body=body, patience=patience)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    started = time.monotonic()
    act(process)
    _, errors = process.communicate(timeout=30)
    return process.returncode, time.monotonic() - started, errors


BLOCKED = "import threading; threading.Lock().acquire(); l = threading.Lock(); l.acquire(); l.acquire()"


def test_an_unanswered_request_ends_the_process_without_saving() -> None:
    """The main thread waits inside C, as in a collective whose other side is gone: no Python handler can run there."""
    code, seconds, errors = hanging(BLOCKED, 1.0, lambda p: p.send_signal(signal.SIGTERM))
    assert code == 128 + signal.SIGTERM
    assert 0.9 < seconds < 5
    assert "no answer within 1 s: leaving without saving" in errors


def test_a_second_signal_ends_the_process_at_once() -> None:
    def twice(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGINT)
        time.sleep(2.3)
        process.send_signal(signal.SIGINT)

    code, seconds, errors = hanging(BLOCKED, 20.0, twice)
    assert code == 128 + signal.SIGINT
    assert seconds < 5
    assert "a second SIGINT: leaving without saving" in errors


def test_signals_within_two_seconds_are_one_request_and_an_answer_has_time() -> None:
    """A scheduler and torchrun both send one. Answered, the process may take longer than the patience."""

    def twice(process: subprocess.Popen[str]) -> None:
        process.send_signal(signal.SIGTERM)
        time.sleep(0.3)
        process.send_signal(signal.SIGTERM)

    body = "while not stop.requested: time.sleep(0.05)\n    stop.answer(); time.sleep(1.5); print('saved')"
    code, _, _ = hanging(body, 1.0, twice)
    assert code == 0


def test_a_request_without_a_folder_still_ends_the_run() -> None:
    stop = StopRequest()
    stop.requested = True
    with pytest.raises(Stopped, match="after step 1"):
        fit([phase()], network, Task(), CPU, 0, stop=stop)
    assert stop.answered
    assert torch.is_grad_enabled()
