"""The moving-average teacher by its numbers (cards bcp.md 6, items 12 to 14, and semi_supervised_baselines.md 6, 2)."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from medkd.engine.schedules import ema_warmup
from medkd.engine.teachers import EmaTeacher


def weight(value: float) -> nn.Linear:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, value)
    return layer


def test_gap_to_a_constant_student_shrinks_by_the_decay():
    teacher, student = EmaTeacher(weight(1.0), decay=0.99), weight(0.0)
    gap = {}
    for k in range(1, 460):
        teacher.update(student)
        gap[k] = teacher.network.weight.item()
    assert gap[1] == pytest.approx(0.99)
    assert gap[69] == pytest.approx(0.4998, abs=5e-5)
    assert gap[459] == pytest.approx(0.0099, abs=5e-5)
    assert all(value == pytest.approx(0.99**k, rel=1e-4) for k, value in gap.items())


def test_warmup_values():
    assert [ema_warmup(k, 0.99) for k in (0, 1, 9)] == pytest.approx([0, 0.5, 0.9])
    assert ema_warmup(98, 0.99) == pytest.approx(0.98990, abs=5e-6)
    assert all(ema_warmup(k, 0.99) == 0.99 for k in range(99, 200))


def test_warmup_is_the_plain_mean_of_the_students_until_it_ends():
    values = torch.randn(102, generator=torch.Generator().manual_seed(0)).double()
    teacher = EmaTeacher(weight(7.0).double(), decay=0.99, warmup=True)
    for k, value in enumerate(values):
        before = teacher.network.weight.item()
        teacher.update(weight(float(value)).double())
        mean = values[: k + 1].mean().item()
        constant = 0.99 * before + 0.01 * float(value)
        assert teacher.network.weight.item() == pytest.approx(mean if k < 100 else constant, abs=1e-12)
    assert constant != pytest.approx(mean, abs=1e-6)


@pytest.mark.parametrize("policy", ["copy", "blend", "own"])
def test_buffer_policy(policy):
    """A student whose data has another mean: its running mean moves, and the teacher's as its policy says."""
    student = nn.BatchNorm1d(1)
    teacher = EmaTeacher(student, decay=0.9, buffers=policy)
    for _ in range(3):
        student(torch.tensor([[9.0], [11.0]]))
    running, batches = student.running_mean.clone(), student.num_batches_tracked.clone()
    teacher.update(student)
    mine = teacher.network
    expected = {"copy": running, "blend": 0.1 * running, "own": torch.zeros(1)}[policy]
    torch.testing.assert_close(mine.running_mean, expected)
    assert mine.num_batches_tracked.dtype == torch.int64
    assert mine.num_batches_tracked == (0 if policy == "own" else batches)  # an integer is copied, never averaged


def test_own_buffers_come_from_the_teachers_own_forwards():
    student = nn.BatchNorm1d(1)
    teacher = EmaTeacher(student, buffers="own", mode="train")
    teacher(torch.tensor([[1.0], [3.0]]))
    assert teacher.network.running_mean.item() == pytest.approx(0.1 * 2.0)
    assert student.running_mean.item() == 0


@pytest.mark.parametrize(("decay", "value"), [(0.0, 0.3), (1.0, 1.0)])
def test_decay_zero_copies_and_one_keeps_bit_for_bit(decay, value):
    teacher = EmaTeacher(weight(1.0), decay=decay)
    teacher.update(weight(0.3))
    assert torch.equal(teacher.network.weight, torch.full((1, 1), value))
