from __future__ import annotations

import json
from pathlib import Path

import pytest

from medkd.engine.tracking import Clock, Tracker, read_log


def write(out: Path, steps: range) -> Tracker:
    with Tracker(out) as tracker:
        for step in steps:
            tracker.row("train", phase="a", global_step=step, loss=step / 10)
    return tracker


def steps(out: Path) -> list[int]:
    return [row["global_step"] for row in read_log(out / "log.jsonl")]


@pytest.mark.usefixtures("no_tensorboard")
def test_rewind_drops_the_later_rows_and_the_log_goes_on(tmp_path: Path) -> None:
    write(tmp_path, range(1, 7))
    tracker = Tracker(tmp_path)
    tracker.rewind(4)
    assert steps(tmp_path) == [row["global_step"] for row in tracker.rows] == [1, 2, 3, 4]
    tracker.row("train", global_step=5, loss=0.0)
    assert steps(tmp_path) == [1, 2, 3, 4, 5]
    Tracker(tmp_path).rewind(0)
    assert steps(tmp_path) == []


@pytest.mark.usefixtures("no_tensorboard")
@pytest.mark.parametrize("tail", ['{"kind": "train", "glob', "{", '{"kind": "train", "global_step": 4, "loss": 0.'])
def test_a_last_line_torn_by_a_kill_is_left_out_and_mended(tmp_path: Path, tail: str) -> None:
    write(tmp_path, range(1, 4))
    with (tmp_path / "log.jsonl").open("a") as file:
        file.write(tail)
    assert steps(tmp_path) == [1, 2, 3]
    tracker = Tracker(tmp_path)
    tracker.rewind(3)
    tracker.row("train", global_step=4, loss=0.0)
    assert [json.loads(line)["global_step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [
        1,
        2,
        3,
        4,
    ]


def test_without_a_folder_rows_stay_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    tracker = Tracker()
    tracker.rewind(0)
    tracker.row("train", global_step=1, loss=0.5)
    assert tracker.rows == [{"kind": "train", "global_step": 1, "loss": 0.5}]
    assert list(tmp_path.iterdir()) == []


def test_numbers_go_to_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    write(tmp_path, range(1, 4))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert events.Tags()["scalars"] == ["train/loss"]
    assert [e.step for e in events.Scalars("train/loss")] == [1, 2, 3]
    assert [e.value for e in events.Scalars("train/loss")] == pytest.approx([0.1, 0.2, 0.3])


def test_the_clock_counts_since_the_last_report(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter([10.0, 14.0, 16.0])
    monkeypatch.setattr("medkd.engine.tracking.time.perf_counter", lambda: next(now))
    clock = Clock()
    clock.steps, clock.data = 8, 1.0
    assert clock.report() == {"iterations_per_second": 2.0, "data_share": 0.25}
    clock.steps = 3
    assert clock.report() == {"iterations_per_second": 1.5, "data_share": 0.0}
