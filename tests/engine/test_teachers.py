from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from medkd.engine.schedules import ema_warmup
from medkd.engine.teachers import EmaTeacher, FrozenTeacher
from medkd.errors import InputError


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Dropout(0.5))


def parameters(module: nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().double().flatten() for p in module.parameters()])


@pytest.fixture(autouse=True)
def _keep_the_global_generator() -> object:
    with torch.random.fork_rng(devices=[]):
        yield


@settings(max_examples=25)
@given(st.sampled_from([0.0, 0.5, 0.99, 0.9996, 1.0]), st.booleans(), st.integers(1, 6))
def test_the_average_is_the_hand_value(decay: float, warmup: bool, steps: int) -> None:
    teacher = EmaTeacher(network(0), decay, warmup)
    expected = parameters(teacher)
    for k in range(steps):
        student = network(k + 1)
        weight = min(1 - 1 / (k + 1), decay) if warmup else decay
        expected = weight * expected + (1 - weight) * parameters(student)
        teacher.update(student)
    torch.testing.assert_close(parameters(teacher), expected, rtol=1e-6, atol=1e-7)


def test_decay_one_keeps_and_decay_zero_copies_every_bit() -> None:
    student, start = network(1), network(0)
    for decay, expected in ((1.0, start), (0.0, student)):
        teacher = EmaTeacher(start, decay)
        teacher.update(student)
        assert torch.equal(parameters(teacher), parameters(expected))


def test_a_constant_student_is_reached_as_the_card_says() -> None:
    """After 69 steps of .99 half the gap is closed (.4998), after 459 steps 99 % (.0099 left)."""
    student = nn.Linear(1, 1, bias=False).double()
    teacher = EmaTeacher(nn.Linear(1, 1, bias=False).double(), 0.99)
    with torch.no_grad():
        student.weight.zero_()
        teacher.network.weight.fill_(1.0)
    left = []
    for _ in range(459):
        teacher.update(student)
        left.append(teacher.network.weight.item())
    assert left[68] == pytest.approx(0.4998, abs=5e-5)
    assert left[458] == pytest.approx(0.0099, abs=5e-5)


def test_with_warm_up_the_teacher_is_the_mean_of_the_students_seen() -> None:
    teacher, seen = EmaTeacher(network(0), 0.99, warmup=True), []
    for k in range(1, 11):
        seen.append(parameters(network(k)))
        teacher.update(network(k))
    torch.testing.assert_close(parameters(teacher), torch.stack(seen).mean(0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("policy", ["copy", "blend", "own"])
@pytest.mark.parametrize("mode", ["eval", "train"])
def test_buffers_follow_their_policy_while_the_data_mean_shifts(policy: str, mode: str) -> None:
    student = network(0)
    teacher = EmaTeacher(student, 0.75, buffers=policy, mode=mode)
    mine = copy.deepcopy(teacher.network)  # what the teacher would have had from its own forwards alone
    expected = dict(teacher.network.named_buffers())
    expected = {name: value.clone() for name, value in expected.items()}
    for step in range(3):
        image = torch.randn(4, 1, 6, 6) + 3.0 * step
        student(image)
        teacher(image)
        if mode == "train":
            mine.load_state_dict(teacher.network.state_dict())
        before = {name: value.clone() for name, value in teacher.network.named_buffers()}
        teacher.update(student)
        for name, theirs in student.named_buffers():
            if policy == "own":
                expected[name] = before[name]
            elif policy == "blend" and theirs.is_floating_point():
                expected[name] = 0.75 * before[name] + 0.25 * theirs
            else:
                expected[name] = theirs.clone()
    for name, value in teacher.network.named_buffers():
        torch.testing.assert_close(value, expected[name], rtol=1e-6, atol=1e-7)
    assert int(student[1].num_batches_tracked) == 3
    counted = {"copy": 3, "blend": 3, "own": 3 if mode == "train" else 0}[policy]
    assert int(teacher.network[1].num_batches_tracked) == counted
    if policy == "own":
        moved = float(teacher.network[1].running_mean.abs().max()) > 0
        assert moved == (mode == "train")


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_its_mode_is_its_own_and_no_gradient_reaches_it(mode: str) -> None:
    student = network()
    whole = nn.ModuleDict({"student": student, "teacher": EmaTeacher(student, mode=mode)})
    for asked in (True, False):
        whole.train(asked)
        assert student.training == asked
        assert {m.training for m in whole["teacher"].modules()} == {mode == "train"}
    image = torch.randn(2, 1, 4, 4, requires_grad=True)
    assert not whole["teacher"](image).requires_grad
    assert not any(p.requires_grad for p in whole["teacher"].parameters())


def test_student_and_teacher_share_no_memory() -> None:
    student = network()
    teacher = EmaTeacher(student)
    mine = {p.data_ptr() for p in teacher.state_dict().values()}
    assert mine.isdisjoint(p.data_ptr() for p in student.state_dict().values())


def test_the_count_of_updates_is_in_the_state() -> None:
    """With warm-up the next decay depends on it."""
    one, other = EmaTeacher(network(0), 0.99, warmup=True), EmaTeacher(network(3), 0.99, warmup=True)
    for k in range(5):
        one.update(network(k))
    other.load_state_dict(one.state_dict())
    assert other.updates == 5
    for teacher in (one, other):
        teacher.update(network(9))
    assert torch.equal(parameters(one), parameters(other))
    assert ema_warmup(5, 0.99) == pytest.approx(5 / 6)


def test_the_average_of_several_students_is_that_of_their_mean() -> None:
    students = [network(k) for k in (1, 2, 3)]
    students[0][1].running_mean += 6.0
    students[0][1].num_batches_tracked += 5
    teacher, start = EmaTeacher(network(0), 0.75, buffers="blend"), parameters(network(0))
    teacher.update(*students)
    mean = torch.stack([parameters(s) for s in students]).mean(0)
    torch.testing.assert_close(parameters(teacher), 0.75 * start + 0.25 * mean, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(teacher.network[1].running_mean, torch.full((2,), 0.25 * 2.0))
    assert int(teacher.network[1].num_batches_tracked) == 5


def test_several_students_without_buffers() -> None:
    teacher = EmaTeacher(nn.Linear(1, 1), 0.5)
    teacher.update(nn.Linear(1, 1), nn.Linear(1, 1))
    assert teacher.updates == 1


def test_decay_may_be_a_schedule_of_the_updates() -> None:
    decays = [0.0, 0.5, 1.0, 0.25]
    teacher = EmaTeacher(network(0), lambda k: decays[k])
    expected = parameters(teacher)
    for k, decay in enumerate(decays):
        teacher.update(network(k + 1))
        expected = decay * expected + (1 - decay) * parameters(network(k + 1))
        torch.testing.assert_close(parameters(teacher), expected, rtol=1e-6, atol=1e-7)


def test_a_hard_copy_at_one_update() -> None:
    teacher = EmaTeacher(network(0), 0.9, copy_at=2)
    for k in range(3):
        teacher.update(network(k + 1))
    assert torch.equal(parameters(teacher), parameters(network(3)))
    teacher.update(network(4))
    assert not torch.equal(parameters(teacher), parameters(network(4)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_average_of_a_half_precision_student_is_kept_in_float32(dtype: torch.dtype) -> None:
    """In bfloat16 a decay of .9996 moves nothing: 4e-4 is below its resolution of 2^-8."""
    student = nn.Linear(1, 1, bias=False).to(dtype)
    teacher = EmaTeacher(student, 0.9996)
    with torch.no_grad():
        teacher.network.weight.fill_(1.0)
        student.weight.zero_()
    for _ in range(100):
        teacher.update(student)
    assert teacher.network.weight.dtype == torch.float32
    assert teacher.network.weight.item() == pytest.approx(0.9996**100, rel=1e-5)


def frozen(differentiable: bool) -> FrozenTeacher:
    return FrozenTeacher(network(0), differentiable)


@pytest.mark.parametrize("differentiable", [False, True])
def test_a_frozen_teacher_collects_no_gradient_and_passes_it_only_if_asked(differentiable: bool) -> None:
    teacher = frozen(differentiable)
    image = torch.randn(2, 1, 4, 4, requires_grad=True)
    output = teacher(image)
    assert output.requires_grad == differentiable
    if differentiable:
        output.square().sum().backward()
        assert image.grad is not None
        assert image.grad.abs().sum() > 0
        with torch.no_grad():
            assert not teacher(image).requires_grad
    assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())


def test_a_frozen_teacher_stays_as_it_is_in_eval_mode() -> None:
    whole = nn.ModuleDict({"teacher": frozen(False)}).train()
    before = {k: v.clone() for k, v in whole["teacher"].network.state_dict().items()}
    whole["teacher"](torch.randn(4, 1, 3, 3) + 5)
    assert not any(m.training for m in whole["teacher"].modules())
    assert all(torch.equal(v, before[k]) for k, v in whole["teacher"].network.state_dict().items())


def test_a_frozen_teacher_is_in_the_state_by_its_fingerprint_alone() -> None:
    teacher = nn.ModuleDict({"t": frozen(False)})
    state = teacher.state_dict()
    assert list(state) == ["t._extra_state"]
    teacher.load_state_dict(state)
    with torch.no_grad():
        teacher["t"].network[0].bias[0] += 1
    with pytest.raises(InputError, match="another network"):
        teacher.load_state_dict(state)
