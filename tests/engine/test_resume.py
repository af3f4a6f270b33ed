"""A run stopped anywhere and resumed ends where the uninterrupted one does, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from toy_problem import CPU, Interrupted, Stream, Task, equal_trees, network, phase

from medkd.engine.checkpoint import load_state
from medkd.engine.fit import Selection, fit
from medkd.engine.options import Optimizer
from medkd.engine.phases import Phase
from medkd.engine.tracking import Tracker, read_log

TIMES = ("iterations_per_second", "data_share")


def two_phases(stop: int | None, carry: bool, kind: str = "sgd", hand_over: str = "best") -> list[Phase]:
    values = {"optimizer": Optimizer(kind=kind, lr=0.1), "validate_every": 2, "hand_over": hand_over}
    return [
        phase("pretrain", 3, Stream(stop=stop), **values),
        phase("selftrain", 4, Stream(stop=stop), carry_optimizer=carry, **values),
    ]


def run(out: Path, stop: int | None, resume: bool = False, **values: Any) -> Selection:
    out.mkdir(exist_ok=True)
    return fit(
        two_phases(stop, **values), network, Task(), CPU, 0,
        out=out, resume=resume, tracker=Tracker(out), save_every=2,
    )  # fmt: skip


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_log(out / "log.jsonl")]


@pytest.mark.usefixtures("no_tensorboard")
@pytest.mark.parametrize("carry", [False, True])
@pytest.mark.parametrize(("kind", "hand_over"), [("sgd", "best"), ("adamw", "last")])
def test_interrupted_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, carry: bool, kind: str, hand_over: str
) -> None:
    monkeypatch.setattr("medkd.engine.fit.LOG_EVERY", 1)
    values = {"carry": carry, "kind": kind, "hand_over": hand_over}
    whole = run(tmp_path / "whole", None, **values)
    assert len(rows(tmp_path / "whole")) == 7 + 4  # training and validation
    for stop in range(7):
        out = tmp_path / f"stopped{stop}"
        with pytest.raises(Interrupted):
            run(out, stop, **values)
        with pytest.raises(Interrupted):  # stopped at once again: the record must not grow
            run(out, stop, resume=True, **values)
        resumed = run(out, None, resume=True, **values)
        assert (resumed.score, resumed.step) == (whole.score, whole.step)
        assert equal_trees([resumed.best, resumed.last], [whole.best, whole.last])
        states = [load_state(folder / "last.safetensors") for folder in (out, tmp_path / "whole")]
        assert equal_trees(*states)
        assert rows(out) == rows(tmp_path / "whole")


@pytest.mark.usefixtures("no_tensorboard")
def test_a_finished_run_returns_what_it_has(tmp_path: Path) -> None:
    whole = run(tmp_path, None, carry=False)
    again = run(tmp_path, 0, resume=True, carry=False)  # a stream that gives nothing: no step is taken
    assert equal_trees([again.best, again.last, again.step], [whole.best, whole.last, whole.step])


@pytest.mark.usefixtures("no_tensorboard")
def test_without_resume_a_run_starts_anew(tmp_path: Path) -> None:
    whole = run(tmp_path, None, carry=False)
    again = run(tmp_path, None, carry=False)
    assert equal_trees([again.best, again.last], [whole.best, whole.last])
    assert [row["global_step"] for row in rows(tmp_path)] == [2, 3, 3, 5, 7, 7]
