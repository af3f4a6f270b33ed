"""Contract items 7, 8, 12, 15: the same bits after a kill, in a second fit, and whatever labels nobody may read say."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_setting import (
    CPU,
    NAMES,
    PIXELS,
    Interrupted,
    Task,
    backward,
    context,
    network,
    options,
    phase,
    same,
    started,
    streams,
)
from torch import nn

from medkd.config.registry import methods
from medkd.data.arrays import TrainingArrays
from medkd.data.augment_options import AugmentOptions
from medkd.data.dataset import Case
from medkd.data.streams import ArrayStream
from medkd.engine.checkpoint import load_state
from medkd.engine.fit import Selection, fit
from medkd.engine.phases import Phase
from medkd.engine.tracking import Tracker, read_log

pytestmark = pytest.mark.parametrize("name", NAMES)

FIRST, SECOND = 3, 4  # steps of the two phases
TIMES = ("iterations_per_second", "data_share")
OTHER_WEIGHTS = {
    "cps": "its optimiser holds two networks, the first phase's one",
    "ofa": "its optimiser holds the exits besides, the first phase's none",
}


def two_phases(name: str, carry: bool, stop: int | None) -> list[Phase]:
    """Pre-training, then the method; the first phase hands over its best weights."""
    data = streams(stop=stop)
    first = phase("labelled_copy_paste", FIRST, data)
    second = phase("second", SECOND, data, given=options(name), carry_optimizer=carry)
    return [first, second]


def run(name: str, out: Path, carry: bool, stop: int | None = None, resume: bool = False) -> Selection:
    out.mkdir(exist_ok=True)
    phases = two_phases(name, carry, stop)
    return fit(phases, network(), Task(), CPU, 0, out=out, resume=resume, tracker=Tracker(out), save_every=2)


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_log(out / "log.jsonl")]


@pytest.mark.usefixtures("no_tensorboard")
@pytest.mark.parametrize("carry", [False, True], ids=["fresh", "carried"])
def test_item_7_resuming_equals_not_stopping(
    name: str, carry: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped after the first checkpoint, between two of the second phase, and (carried) before its first."""
    if carry and name in OTHER_WEIGHTS:
        pytest.skip(OTHER_WEIGHTS[name])
    monkeypatch.setattr("medkd.engine.fit.LOG_EVERY", 1)
    whole = run(name, tmp_path / "whole", carry)
    log, state = rows(tmp_path / "whole"), load_state(tmp_path / "whole" / "last.safetensors")
    assert len([row for row in log if row["kind"] == "train"]) == FIRST + SECOND
    for stop in (4,) if carry else (2, 6):
        out = tmp_path / f"stopped{stop}"
        with pytest.raises(Interrupted):
            run(name, out, carry, stop)
        resumed = run(name, out, carry, resume=True)
        assert same([resumed.best, resumed.last], [whole.best, whole.last])
        assert (resumed.score, resumed.step) == (whole.score, whole.step)
        assert same(load_state(out / "last.safetensors"), state)  # teachers, momentum, counters
        assert rows(out) == log


def hooks(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in module.modules() for kind in kinds)


def test_item_8_hooks_are_gone_after_a_step_and_after_a_failure(name: str) -> None:
    method = started(phase(name)).method
    before = hooks(method)
    backward(method, context(step=3))
    assert hooks(method) == before
    for failing in [module for module in method.student.modules() if not list(module.children())][::5]:

        def fail(*_: object) -> None:
            raise Interrupted

        handle = failing.register_forward_hook(fail)
        modes = [m.training for m in method.modules()]
        try:
            backward(method, context(step=3))
        except Interrupted:
            assert [m.training for m in method.modules()] == modes
        finally:
            handle.remove()
        assert hooks(method) == before


def test_item_12_fit_twice_gives_the_same_and_leaves_the_generators_alone(name: str) -> None:
    def once() -> tuple[Selection, list[dict[str, Any]]]:
        tracker = Tracker()
        selection = fit([phase(name, 4, streams())], network(), Task(), CPU, 0, tracker=tracker)
        return selection, [{k: v for k, v in row.items() if k not in TIMES} for row in tracker.rows]

    torch.manual_seed(1)
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    one, first_rows = once()
    assert same((torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()), generators)  # noqa: NPY002
    torch.manual_seed(2)
    other, second_rows = once()
    assert same([one.best, one.last], [other.best, other.last])
    assert first_rows == second_rows


def arrays(edit: str | None = None) -> TrainingArrays:
    """Three labelled and four unlabelled cases of two slices. edit: whose stored labels are replaced by nonsense."""
    rng = np.random.default_rng(0)
    samples = 14
    image = rng.normal(size=(samples, PIXELS, PIXELS)).astype(np.float16)
    label = (image > 0.5).astype(np.uint8) + (image > 1).astype(np.uint8)
    labelled = [True] * 3 + [False] * 4
    case = np.arange(samples) // 2
    present = np.array([[bool((sample == k).any()) for k in range(3)] for sample in label])
    if edit:
        chosen = np.array([labelled[c] == (edit == "labelled") for c in case])
        label[chosen] = rng.integers(3, size=label[chosen].shape)
        present[chosen] = ~present[chosen] if edit == "unlabelled" else present[chosen]
    cases = tuple(
        Case(f"c{i}", f"p{i}", "train", flag, (Path(f"c{i}.nii.gz"),), None, None, (PIXELS, PIXELS, 2))
        for i, flag in enumerate(labelled)
    )
    shape = np.full((samples, 2), PIXELS)
    return TrainingArrays(cases, 1, image.ravel(), label.ravel(), case, np.arange(samples) * PIXELS**2, shape, present)


def trained_on(name: str, data: TrainingArrays) -> dict[str, torch.Tensor]:
    made = {
        stream: ArrayStream(
            data, stream, stream != "unlabelled", 4, (PIXELS, PIXELS), AugmentOptions(preset="light"), 0,
            torch.device("cpu"), foreground=0.5 if stream == "labelled" else 0.0,
        )
        for stream in methods()[name].needs
    }  # fmt: skip
    return fit([phase(name, 3, made)], network(), Task(), CPU, 0).last


def test_item_15_labels_of_unlabelled_cases_are_never_read(name: str) -> None:
    untouched = trained_on(name, arrays())
    assert same(trained_on(name, arrays("unlabelled")), untouched)
    assert not same(trained_on(name, arrays("labelled")), untouched)  # the edit itself is seen where it may be
