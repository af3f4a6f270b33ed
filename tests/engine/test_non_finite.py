"""A step whose loss or gradient is not finite changes nothing; several in a row end the run, and say where."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from toy_problem import CPU, Poison, Regression, Task, equal_trees, network, phase, phase_run

from medkd.engine.fit import PhaseRun, TrainingError, fit
from medkd.engine.options import Optimizer
from medkd.engine.runtime import Runtime

FP16 = Runtime(torch.device("cpu"), "fp16")
POISON: dict[str, Callable[[Tensor], Tensor]] = {
    "nan": lambda output: output.sum() * math.nan,
    "inf": lambda output: output.sum() * math.inf,
    "nan loss, finite gradient": lambda output: torch.tensor(math.nan),
    "finite loss, infinite gradient": lambda output: (output - output.detach()).abs().sqrt().sum(),
}


def poisoned(runtime: Runtime, poison: Poison) -> PhaseRun:
    made = phase(build=lambda networks: Regression(networks(0), poison=poison), optimizer=Optimizer(clip=1.0))
    return phase_run(made, runtime)


@pytest.mark.parametrize("kind", POISON)
@pytest.mark.parametrize("runtime", [CPU, FP16], ids=lambda r: r.precision)
def test_a_skipped_step_changes_nothing(runtime: Runtime, kind: str) -> None:
    run = poisoned(runtime, {3: POISON[kind]})
    run.scaler = torch.amp.GradScaler("cpu", init_scale=8.0, enabled=runtime.precision == "fp16")
    for _ in range(3):
        run.train_one()
    before = copy.deepcopy((run.method.state_dict(), run.optimizers["student"].state_dict()["state"]))
    run.train_one()
    assert equal_trees((run.method.state_dict(), run.optimizers["student"].state_dict()["state"]), before)
    assert run.method.teacher.updates == 3
    assert (run.step, run.skipped, run.skipped_in_a_row) == (4, 1, 1)
    run.train_one()
    assert run.method.real_steps == [0, 1, 2, 4]
    assert not equal_trees(run.method.state_dict(), before[0])
    assert (run.skipped, run.skipped_in_a_row) == (1, 0)


def test_a_scale_that_is_too_large_is_lowered_without_ending_the_run() -> None:
    """The first steps of fp16: gradients overflow at 2^24 until the scale has come down."""
    run = poisoned(FP16, {})
    run.scaler = torch.amp.GradScaler("cpu", init_scale=2.0**24)
    for _ in range(20):
        run.train_one()
    assert run.skipped > 3
    assert len(run.method.real_steps) == 20 - run.skipped
    assert run.scaler.get_scale() == 2.0 ** (24 - run.skipped)


def test_three_in_a_row_end_the_run_and_name_the_cases() -> None:
    build = lambda networks: Regression(networks(0), poison=dict.fromkeys((1, 4, 5, 6), POISON["nan"]))  # noqa: E731
    with pytest.raises(TrainingError) as error:
        fit([phase("first", 10, build=build)], network, Task(), CPU, 0)
    text = str(error.value)
    for part in ("3 steps in a row", "phase first", "step 6", "case6_0", "case6_3", "optimizer.lr"):
        assert part in text
    assert "case5_0" not in text


def test_two_in_a_row_do_not() -> None:
    build = lambda networks: Regression(networks(0), poison=dict.fromkeys((1, 2, 4, 5), POISON["nan"]))  # noqa: E731
    selection = fit([phase("first", 7, build=build)], network, Task(), CPU, 0)
    assert all(torch.isfinite(v).all() for v in selection.last.values())
