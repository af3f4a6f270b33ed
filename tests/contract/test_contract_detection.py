"""The contract for the methods of detection: the items of docs/architecture.md that a detector can keep.

Not here: item 6 (micro-batches) and the equality of item 16, because the losses of detectors divide by the regions or
positives of a forward, and Faster R-CNN samples regions; item 9, because a detector's loss against its own boxes is not
zero; item 11, because no method has a stored teacher. What two ranks do keep is in test_contract_ranks_detection.py."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from tiny_detection import CPU, NAMES, Score, Stream, begun, network, options, phase, streams
from tiny_setting import Interrupted, constant_teachers, context, same, teachers, trainable, weights
from tiny_sites import Unreadable
from torch import Tensor, nn

from medkd.config.registry import methods
from medkd.engine.checkpoint import load_state
from medkd.engine.fit import PhaseRun, Selection, TrainingError, fit
from medkd.engine.method import Batch, Method, StepOutput
from medkd.engine.randomness import seeded
from medkd.engine.runtime import Runtime
from medkd.engine.tracking import Tracker, read_log

pytestmark = pytest.mark.parametrize("name", NAMES)

TIMES = ("iterations_per_second", "data_share")
NO_WEIGHT = ("adabn",)  # they train none
WITHOUT_LABELS = {
    "irg": "it also learns from the agreement of proposals",
    "lpld": "it learns from proposals that are no labels",
}
BOXES = ("bbox_pred",)  # pseudo-boxes that are not trusted in their place train no regression


def gradients(method: Method, data: Mapping[str, Any], step: int = 0) -> dict[str, Tensor]:
    method.zero_grad(set_to_none=True)
    with seeded("step", step):
        method.step("student", {n: data[n].batch(step) for n in method.reads["student"]}, context(step)).loss.backward()
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def test_item_1_every_trainable_weight_gets_a_gradient_and_changes(name: str) -> None:
    run = begun(phase(name, 4))
    parts, found = trainable(run.method), gradients(run.method, streams())
    assert found.keys() == parts.keys()
    assert all(torch.isfinite(g).all() for g in found.values())
    before = weights(run.method)
    for _ in range(4):
        run.train_one()
    after = weights(run.method)
    assert run.skipped == 0
    if name in NO_WEIGHT:
        assert all(torch.equal(before[n], after[n]) for n, _ in run.method.named_parameters())
        assert not same(before, after)  # statistics
        return
    still = [n for n in parts if torch.equal(before[n], after[n])]
    assert still == (
        [] if name in ("supervised_detection", "distil_detection") else [n for n in parts if any(b in n for b in BOXES)]
    )


def test_item_1_the_student_learns_from_the_stream_it_reads(name: str) -> None:
    def other(batch: Batch, step: int) -> Batch:
        return replace(batch, image=1 - batch.image, view={**batch.view, "strong": 1 - batch.view["strong"]})

    if name in NO_WEIGHT:
        pytest.skip("trains no weight")
    method = begun(phase(name)).method
    base = {n: g.clone() for n, g in gradients(method, streams()).items()}
    moved = gradients(method, streams(edit=other))
    assert [n for n, g in base.items() if g.any() and torch.equal(g, moved[n])] == []


def constant(found: list[nn.Module]) -> list[dict[str, Tensor]]:
    return [weights(t) for t in found]


def test_item_2_teachers_are_constant_within_a_step_in_eval_mode_and_collect_no_gradient(name: str) -> None:
    run = begun(phase(name, 4, accumulate=2))
    found = [*teachers(run.method), *constant_teachers(run.method)]
    if not found or name in NO_WEIGHT:
        pytest.skip("has no teacher")
    seen: list[bool] = []
    for module in [m for t in found for m in t.modules()]:
        module.register_forward_pre_hook(lambda m, _: seen.append(m.training))
    at_after_step: list[list[dict[str, Tensor]]] = []
    after_step = run.method.after_step

    def spy(ctx: Any) -> None:
        at_after_step.append(constant(found))
        after_step(ctx)

    run.method.after_step = spy  # type: ignore[method-assign]
    fixed = constant(constant_teachers(run.method))
    for _ in range(3):
        before = constant(found)
        run.method.train()
        run.train_one()
        assert same(at_after_step[-1], before)
    assert not any(seen)
    assert same(constant(constant_teachers(run.method)), fixed)
    assert all(p.grad is None for t in found for p in t.parameters())


def test_item_2_validation_changes_nothing(name: str) -> None:
    run = begun(phase(name, 4))
    run.train_one()
    before = weights(run.method), [m.training for m in run.method.modules()], torch.get_rng_state()
    run.validate()
    assert same((weights(run.method), [m.training for m in run.method.modules()], torch.get_rng_state()), before)


@pytest.mark.parametrize("decay", [0.0, 0.9, 1.0])
def test_item_3_the_moving_average_is_the_hand_value(name: str, decay: float) -> None:
    """Parameters and running statistics alike (`blend`); integers are copied."""
    run = begun(phase(name, 3))
    found = teachers(run.method)
    if not found:
        pytest.skip("has no moving average")
    for teacher in found:
        teacher.decay, teacher.warmup = decay, False
    expected = [{k: v.detach().double() for k, v in weights(t.network).items()} for t in found]
    for _ in range(3):
        run.train_one()
        student = weights(run.method.student)
        for teacher, values in zip(found, expected):
            for k, old in values.items():
                average = student[k].is_floating_point() and not (teacher.buffer_policy == "copy" and "running" in k)
                values[k] = decay * old + (1 - decay) * student[k].double() if average else student[k].double()
    for teacher, values in zip(found, expected):
        for k, value in weights(teacher.network).items():
            torch.testing.assert_close(value.double(), values[k], rtol=1e-5, atol=1e-6)


def poison(run: PhaseRun, at: tuple[int, ...]) -> None:
    step = run.method.step

    def poisoned(turn: str, batch: Any, ctx: Any) -> StepOutput:
        output = step(turn, batch, ctx)
        return replace(output, loss=output.loss * float("inf")) if ctx.step in at else output

    run.method.step = poisoned  # type: ignore[method-assign]


def test_item_5_a_skipped_step_leaves_weights_teachers_matrices_and_banks(name: str) -> None:
    """Running statistics of the student apart, which its forward collects, and what the next iteration forgets."""

    def state() -> dict[str, Tensor]:
        left_out = ("student.", "pending")
        rest = {k: v for k, v in weights(run.method).items() if not any(word in k for word in left_out)}
        return rest | {k: p.detach().clone() for k, p in run.method.named_parameters()}

    run = begun(phase(name, 6))
    poison(run, at=(2,))
    for _ in range(2):
        run.train_one()
    before = state()
    run.train_one()
    assert run.skipped == 1
    assert same(state(), before)
    run.train_one()
    assert run.skipped_in_a_row == 0


def test_item_5_three_in_a_row_end_the_run_and_name_the_cases(name: str) -> None:
    run = begun(phase(name, 6))
    poison(run, at=(1, 2, 3))
    for _ in range(3):
        run.train_one()
    with pytest.raises(TrainingError, match=r"3 steps in a row .*labelled3_0"):
        run.train_one()


FIRST, SECOND = 2, 4  # steps of the two phases


def run_two(name: str, out: Path, stop: int | None = None, resume: bool = False) -> Selection:
    """A source training, then the method; the first phase hands over its best weights."""
    out.mkdir(exist_ok=True)
    data = streams(stop=stop)
    phases = [phase("supervised_detection", FIRST, data), phase("second", SECOND, data, given=options(name))]
    return fit(phases, network, Score(), CPU, 0, out=out, resume=resume, tracker=Tracker(out), save_every=2)


def rows(out: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k not in TIMES} for row in read_log(out / "log.jsonl")]


@pytest.mark.usefixtures("no_tensorboard")
def test_item_7_resuming_equals_not_stopping(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped before the second phase, and within it: weights, teachers, matrices, banks, counters, the log."""
    monkeypatch.setattr("medkd.engine.fit.LOG_EVERY", 1)
    whole = run_two(name, tmp_path / "whole")
    log, state = rows(tmp_path / "whole"), load_state(tmp_path / "whole" / "last.safetensors")
    for stop in (2, 5):
        out = tmp_path / f"stopped{stop}"
        with pytest.raises(Interrupted):
            run_two(name, out, stop)
        resumed = run_two(name, out, resume=True)
        assert same([resumed.best, resumed.last, resumed.extras], [whole.best, whole.last, whole.extras])
        assert (resumed.score, resumed.step) == (whole.score, whole.step)
        assert same(load_state(out / "last.safetensors"), state)
        assert rows(out) == log


def hooks(module: nn.Module) -> int:
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return sum(len(getattr(m, kind)) for m in module.modules() for kind in kinds)


def test_item_8_hooks_are_gone_after_a_step(name: str) -> None:
    run = begun(phase(name))
    before = hooks(run.method)
    run.train_one()
    assert hooks(run.method) == before


def test_item_10_the_teacher_labels_the_weak_view_of_what_the_student_sees(name: str) -> None:
    run = begun(phase(name, given=options(name, mixing=0.0)))
    found = [*teachers(run.method), *constant_teachers(run.method)]
    batch = Stream("unlabelled").batch(0)
    taught: list[Tensor] = []
    trained: list[Tensor] = []
    for module in [m for t in found for m in t.modules() if type(m).__name__ == "Pyramid"]:
        module.register_forward_pre_hook(lambda _, inputs: taught.append(inputs[0]))
    run.method.student.backbone.register_forward_pre_hook(lambda _, inputs: trained.append(inputs[0]))
    run.train_one()
    if "unlabelled" not in methods()[name].needs or name in NO_WEIGHT:
        pytest.skip("nobody teaches in its step")
    assert taught
    assert all(torch.equal(image, batch.image) for image in taught)
    assert torch.equal(trained[0], batch.view["strong"])
    assert all(torch.equal(image, batch.view["strong"]) for image in trained)


def test_item_12_fit_twice_gives_the_same_and_leaves_the_generators_alone(name: str) -> None:
    def once() -> tuple[Selection, list[dict[str, Any]]]:
        tracker = Tracker()
        selection = fit([phase(name, 3)], network, Score(), CPU, 0, tracker=tracker)
        return selection, [{k: v for k, v in row.items() if k not in TIMES} for row in tracker.rows]

    torch.manual_seed(1)
    generators = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    one, first_rows = once()
    assert same((torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()), generators)  # noqa: NPY002
    torch.manual_seed(2)
    other, second_rows = once()
    assert same([one.best, one.last], [other.best, other.last])
    assert first_rows == second_rows


def test_item_13_bf16_runs_and_its_losses_are_float32(name: str) -> None:
    runtime = Runtime(torch.device("cpu"), "bf16")
    run = begun(phase(name, 2), runtime=runtime)
    batch = {stream: Stream(stream).batch(0) for stream in methods()[name].needs}
    with runtime.autocast(), seeded("bf16"):
        assert run.method.step("student", batch, context(step=1)).loss.dtype == torch.float32
    for _ in range(2):
        run.train_one()
    assert run.skipped == 0
    assert all(v.dtype != torch.bfloat16 and torch.isfinite(v).all() for v in weights(run.method).values())


def test_item_14_one_image_trains(name: str) -> None:
    selection = fit([phase(name, 2, streams(size=1))], network, Score(), CPU, 0)
    assert all(torch.isfinite(v).all() for v in selection.last.values())


def test_item_14_without_any_label_a_step_is_real_and_leaves_the_weights(name: str) -> None:
    """A teacher that is sure of nothing teaches nothing: the loss is a zero with a graph, not an error."""
    if name in WITHOUT_LABELS:
        pytest.skip(WITHOUT_LABELS[name])
    given = options(name, threshold=1.0)
    if "threshold" not in type(given).model_fields:
        pytest.skip("has no teacher's labels")
    if "static" in type(given).model_fields:
        given = given.model_copy(update={"static": given.static.model_copy(update={"threshold": 1.0})})
    run = begun(phase(name, 2, given=given))
    before = {n: p.detach().clone() for n, p in run.method.student.named_parameters()}
    for _ in range(2):
        run.train_one()
    assert run.skipped == 0
    assert same(dict(run.method.student.named_parameters()), before)


def test_item_14_a_labelled_batch_without_labels_says_so(name: str) -> None:
    if "labelled" not in methods()[name].needs:
        pytest.skip("reads no labels")
    with pytest.raises(ValueError, match="carries no labels"):
        fit([phase(name, 2, streams(edit=lambda b, _: replace(b, label=None)))], network, Score(), CPU, 0)


def test_item_15_labels_of_unlabelled_images_are_never_read(name: str) -> None:
    runs = [begun(phase(name, 2, streams(labels=labels))) for labels in (None, Unreadable())]
    for run in runs:
        for _ in range(2):
            run.train_one()
    one, other = (weights(run.method) for run in runs)
    assert same(one, other)


def test_item_17_an_unknown_option_is_an_error(name: str) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        methods()[name](dacay=0.9)
    with pytest.raises(ValidationError, match="frozen"):
        methods()[name]().kind = "other"


def test_what_the_registry_says_is_what_the_method_has(name: str) -> None:
    method, kind = begun(phase(name)).method, methods()[name]
    assert set(kind.candidates) <= set(method.candidates())
    assert set(method.reads) == set(method.turns) == set(kind.turns)
    assert set(kind.needs) == {stream for turn in method.reads.values() for stream in turn}
    if name not in NO_WEIGHT:
        assert same(weights(method.student), weights(network(0)))
