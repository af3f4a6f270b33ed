"""Contract items 2 to 5, 10, 11: when teachers move, by how much, and what they see."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_setting import (
    CLASSES,
    NAMES,
    STREAMS,
    Stream,
    backward,
    constant_teachers,
    context,
    network,
    options,
    phase,
    same,
    started,
    streams,
    teachers,
    trainable,
    weights,
)
from torch import Tensor, nn

from medkd.config.registry import methods
from medkd.data.augment_options import AugmentOptions
from medkd.engine.fit import PhaseRun, TrainingError
from medkd.engine.method import Batch, StepContext, StepOutput
from medkd.engine.teachers import TEACHER_LOGITS, StoredTeacher
from medkd.errors import InputError

pytestmark = pytest.mark.parametrize("name", NAMES)

SHARE_SEEN = {
    "bcp": (0.4, "its student sees composites: 4/9 of one image, 5/9 of another"),
    "unimatch": (0.01, "its student sees boxes of 2 % or more of the other images"),
}
"""The share of a labelled image that the student sees in its place; everything, for a method that is not here."""


def moving(run: PhaseRun) -> list[Any]:
    found = teachers(run.method)
    if not found:
        pytest.skip("has no moving average")
    return found


def shifting(batch: Batch, step: int) -> Batch:
    """The data mean rises from step to step, so that the statistics of student and teacher differ."""
    return replace(batch, image=batch.image + 2.0 * step)


def settle(run: PhaseRun, **values: Any) -> None:
    """Give every moving average of the method these settings, whatever its options."""
    for teacher in teachers(run.method):
        for key, value in values.items():
            setattr(teacher, key, value)
        teacher.train()


def test_item_2_teachers_are_constant_within_a_step_and_keep_their_mode(name: str) -> None:
    run = started(phase(name, 4, accumulate=2))
    found = [*teachers(run.method), *constant_teachers(run.method)]
    if not found:
        pytest.skip("has no teacher")
    modes = [{m.training for m in t.modules()} for t in found]
    seen: list[bool] = []
    for t in found:
        for module in t.modules():
            module.register_forward_pre_hook(lambda m, _: seen.append(m.training))
    at_after_step: list[list[dict[str, Tensor]]] = []
    after_step = run.method.after_step

    def spy(ctx: StepContext) -> None:
        at_after_step.append([fixed(t) for t in found])
        after_step(ctx)

    def fixed(t: nn.Module) -> dict[str, Tensor]:
        """A teacher in train mode collects running statistics of its own in each forward; the rest is constant."""
        return weights(t) if not t.training else {k: p.detach().clone() for k, p in t.named_parameters()}

    run.method.after_step = spy  # type: ignore[method-assign]
    for _ in range(3):
        before = [fixed(t) for t in found]
        run.method.train()
        run.train_one()
        assert same(at_after_step[-1], before)
        assert [{m.training for m in t.modules()} for t in found] == modes
    assert set(seen) <= set.union(*modes)
    assert all(p.grad is None for t in found for p in t.parameters())


def test_item_2_constant_teachers_never_change(name: str) -> None:
    run = started(phase(name, 3))
    found = constant_teachers(run.method)
    if not found:
        pytest.skip("has no teacher that stays as it is")
    before = [weights(t) for t in found]
    for _ in range(3):
        run.train_one()
    assert same([weights(t) for t in found], before)


def test_item_2_validation_changes_nothing(name: str) -> None:
    run = started(phase(name, 4))
    run.train_one()
    before = weights(run.method), [m.training for m in run.method.modules()], torch.get_rng_state()
    run.validate()
    assert same((weights(run.method), [m.training for m in run.method.modules()], torch.get_rng_state()), before)
    assert run.selection.step == 1


@pytest.mark.parametrize("decay", [0.0, 0.99, 1.0])
def test_item_3_the_moving_average_is_the_hand_value(name: str, decay: float) -> None:
    run = started(phase(name, 4))
    found = moving(run)
    settle(run, decay=decay, warmup=False)
    expected = [{k: p.detach().double() for k, p in t.network.named_parameters()} for t in found]
    for _ in range(4):
        run.train_one()
        student = dict(run.method.student.named_parameters())
        for values in expected:
            for k, old in values.items():
                values[k] = decay * old + (1 - decay) * student[k].detach().double()
    for teacher, values in zip(found, expected):
        exact = decay in (0.0, 1.0)
        for k, p in teacher.network.named_parameters():
            torch.testing.assert_close(p.double(), values[k], rtol=0 if exact else 1e-5, atol=0 if exact else 1e-7)


@pytest.mark.parametrize("policy", ["copy", "blend", "own"])
def test_item_3_buffers_follow_their_policy_while_the_data_shift(name: str, policy: str) -> None:
    data = {stream: Stream(stream, edit=shifting) for stream in STREAMS}
    run = started(phase(name, 4, data), network("batch"))
    found = moving(run)
    settle(run, decay=0.75, warmup=False, buffer_policy=policy, mode="eval")
    expected = [{k: b.clone() for k, b in t.network.named_buffers()} for t in found]
    for _ in range(3):
        run.train_one()
        student = dict(run.method.student.named_buffers())
        for values in expected:
            for k, old in values.items():
                if policy == "blend" and old.is_floating_point():
                    values[k] = 0.75 * old + 0.25 * student[k]
                elif policy != "own":  # integers are copied, never averaged
                    values[k] = student[k].clone()
    student = dict(run.method.student.named_buffers())
    assert any("running_mean" in k for k in student)
    for teacher, values in zip(found, expected):
        for k, b in teacher.network.named_buffers():
            torch.testing.assert_close(b, values[k], rtol=1e-5, atol=1e-6)
            same_as_student = policy == "copy" or (policy == "blend" and not b.is_floating_point())
            assert torch.equal(b, student[k]) == same_as_student, k


def test_item_4_frozen_teachers_collect_no_gradient_and_pass_it_where_they_say_so(name: str) -> None:
    run = started(phase(name))
    found = constant_teachers(run.method)
    if not found:
        pytest.skip("has no frozen teacher")
    backward(run.method, context(step=3))
    assert all(p.grad is None for t in found for p in t.parameters())
    image = Stream("labelled").batch(0).image.requires_grad_()
    for t in found:
        output = t(image)
        assert output.requires_grad == bool(getattr(t, "differentiable", False))


def test_item_11_stored_signals_are_the_live_ones(name: str) -> None:
    """The gradients are equal, and a batch without signals is an error. Losses on features need the live teacher."""
    if not methods()[name].teacher_needed:
        pytest.skip("has no trained teacher whose logits could be stored")
    given = options(name, losses=[{"kind": "kd"}])
    live = started(phase(name, given=given)).method
    teacher = live.get_submodule("teacher")

    def said(batch: Batch, step: int) -> Batch:
        with torch.no_grad():
            return replace(batch, view={**batch.view, TEACHER_LOGITS: teacher(batch.image)})

    def networks(which: int | str) -> nn.Module:
        return StoredTeacher(CLASSES, "mark") if which == "teacher" else network()(which)

    stored = started(phase(name, given=given), networks).method
    assert not any(key.startswith("teacher.network") for key in stored.state_dict())
    expected = copy.deepcopy(backward(live, context(step=3)))
    found = backward(stored, context(step=3), streams() | {"labelled": Stream("labelled", edit=said)})
    assert expected.keys() == found.keys()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, msg=lambda m, key=key: f"{key}: {m}")
    with pytest.raises(InputError, match="this batch came without them"):
        backward(stored, context(step=3))


@pytest.mark.parametrize("scaler", [False, True], ids=["fp32", "scaler"])
def test_item_5_a_skipped_step_leaves_student_and_teachers_untouched(name: str, scaler: bool) -> None:
    """Running statistics apart: batch normalisation collects those in the forward."""
    run = started(phase(name, 6))
    run.scaler = torch.amp.GradScaler("cpu", init_scale=16.0, enabled=scaler)
    poison(run, at=(2,))
    for _ in range(2):
        run.train_one()
    before = untouched(run)
    run.train_one()
    assert same(untouched(run), before)
    assert run.skipped == 1
    assert all(t.updates == 2 for t in teachers(run.method))
    run.train_one()
    assert run.skipped_in_a_row == 0
    assert not same(untouched(run), before)
    assert all(t.updates == 3 for t in teachers(run.method))


def test_item_5_three_in_a_row_end_the_run_and_name_the_cases(name: str) -> None:
    run = started(phase(name, 6))
    poison(run, at=(1, 2, 3))
    for _ in range(3):
        run.train_one()
    with pytest.raises(TrainingError, match=r"3 steps in a row .* step 3.*labelled3_0") as error:
        run.train_one()
    assert all(f"{stream}3_{row}" in str(error.value) for stream in run.phase.streams for row in range(4))


def poison(run: PhaseRun, at: tuple[int, ...]) -> None:
    step: Callable[..., StepOutput] = run.method.step

    def poisoned(turn: str, batch: Any, ctx: StepContext) -> StepOutput:
        output = step(turn, batch, ctx)
        return replace(output, loss=output.loss * float("inf")) if ctx.step in at else output

    run.method.step = poisoned  # type: ignore[method-assign]


def untouched(run: PhaseRun) -> list[Any]:
    states = [optimizer.state_dict()["state"] for optimizer in run.optimizers.values()]
    constant = [weights(t) for t in teachers(run.method) if t.mode == "eval"]
    return copy.deepcopy([dict(run.method.named_parameters()), states, constant])


def test_item_10_student_and_teacher_see_the_same_view(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every image a teacher labels comes before the student in the same step, pixel for pixel in its place.

    Up to the noise that the options declare. A student in eval mode is its own teacher. The strong views of UniMatch
    change intensities only; they are switched off, so that what is left is geometry.
    """
    if name == "unimatch":
        monkeypatch.setattr("medkd.segmentation.unimatch.STRONG", AugmentOptions())
    given = options(name, cutmix=1.0)
    run = started(phase(name, given=given), network("instance"))
    taught: list[Tensor] = []
    trained: dict[str, list[Tensor]] = {}
    for teacher in [*teachers(run.method), *constant_teachers(run.method)]:
        teacher.register_forward_pre_hook(lambda _, inputs: taught.extend(inputs[0]))
    owned = {path.split(".")[0] for path in trainable(run.method)}
    networks = run.method.candidates().values()  # a controller sees no images
    for child, module in run.method.named_children():
        if any(module is network for network in networks) and child in owned:
            trained[child] = []
            module.register_forward_pre_hook(
                lambda m, inputs, child=child: (trained[child] if m.training else taught).extend(inputs[0].detach())
            )
    run.train_one()
    first, *others = trained.values()
    assert all(same(first, other) for other in others)  # networks that teach each other
    if not taught and not others:
        pytest.skip("nobody teaches in its step")
    share, _ = SHARE_SEEN.get(name, (1.0, ""))
    tolerance = 2 * getattr(given, "noise", 0.0) + 1e-6
    for image in taught:
        seen = max(float(((image - other).abs() <= tolerance).float().mean()) for other in first)
        assert seen >= share
