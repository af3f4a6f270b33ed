"""Mean Teacher (card semi_supervised_baselines.md 6, items 1, 3 and 17)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from medkd.engine.randomness import Draws, seeded
from medkd.networks.options import DynUNetOptions
from medkd.segmentation.mean_teacher import MeanTeacher, noisy, ramped
from medkd.segmentation.options import CpsOptions, MeanTeacherOptions, UaMtOptions


@pytest.mark.parametrize(
    ("step", "weight"),
    [(0, 0.000673795), (1000, 0.000905444), (6000, 0.00407622), (15000, 0.0286505), (29999, 0.0999875), (30000, 0.1)],
)
def test_ramp_of_the_published_length(step, weight, context):
    assert ramped(0.1, 1.0, context(step, 30_000)) == pytest.approx(weight, rel=2e-6)


def test_ramp_scales_with_the_phase(context):
    assert ramped(0.1, 0.5, context(250, 1000)) == ramped(0.1, 1.0, context(15_000, 30_000))
    assert ramped(0.1, 0.5, context(500, 1000)) == 0.1
    assert ramped(0.1, 0.0, context(0, 1000)) == 0.1


def test_no_consistency_before_update_1000_of_30000(unet, batches, context):
    method = MeanTeacher(unet(), MeanTeacherOptions()).train()
    assert [method.weight(context(step, 30_000)) > 0 for step in (0, 999, 1000)] == [False, False, True]
    batch = batches()
    output = method.step("student", batch, context(999, 30_000))
    assert output.logs["loss_consistency"] > 0
    assert torch.equal(output.loss.detach(), output.logs["loss_labelled"])


def test_hand_value_of_the_consistency(unet, context):
    student = torch.tensor([0.5, 0.5]).reshape(1, 2, 1, 1)
    teacher = torch.tensor([0.75, 0.25]).reshape(1, 2, 1, 1)
    loss, _ = MeanTeacher(unet(), MeanTeacherOptions()).consistency(student, teacher, None, context())
    assert loss.item() == 0.0625


def test_only_the_teacher_sees_noise(unet, batches, context, stored):
    """One student forward of both clean streams; the teacher's input differs from the image by at most 0.2."""
    method = MeanTeacher(unet(), MeanTeacherOptions())
    method.student = student = stored(lambda image: image.repeat(1, 3, 1, 1).requires_grad_())
    method.teacher.network = teacher = stored(lambda image: image.repeat(1, 3, 1, 1))
    batch = batches()
    method.step("student", batch, context())
    assert len(student.seen) == len(teacher.seen) == 1
    assert torch.equal(student.seen[0], torch.cat([batch["labelled"].image, batch["unlabelled"].image]))
    difference = teacher.seen[0] - batch["unlabelled"].image
    assert difference.std() > 0.05
    assert difference.abs().max() <= 0.2 + 1e-6


def test_noise_is_clipped_normal_and_keyed_to_the_sample(batches):
    batch = batches(pixels=64)["unlabelled"]
    zero = dataclasses.replace(batch, image=torch.zeros_like(batch.image))
    noise = noisy(zero, "noise", 0.1)
    assert noise.abs().max() == pytest.approx(0.2)
    assert (noise.abs() == 0.2).float().mean() == pytest.approx(0.0455, abs=0.01)  # P(|N| > 2)
    assert (noise.abs() < 0.1).float().mean() == pytest.approx(0.6827, abs=0.02)
    halves = [noisy(zero.micro(i, 2), "noise", 0.1) for i in (0, 1)]
    assert torch.equal(torch.cat(halves), noise)
    assert not torch.equal(noisy(zero, "other", 0.1), noise)
    assert not torch.equal(noisy(dataclasses.replace(zero, draws=Draws((0, 1, "u"), 4)), "noise", 0.1), noise)


def test_no_gradient_reaches_the_teacher(unet, batches, context):
    method = MeanTeacher(unet(), MeanTeacherOptions(start=0)).train()
    method.step("student", batches(), context(99)).loss.backward()
    assert all(p.grad is None for p in method.teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters())


def test_first_update_copies_the_student_and_buffers_are_the_teachers_own(unet, batches, context):
    method = MeanTeacher(unet(), MeanTeacherOptions()).train()
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1.0)
    before = [b.clone() for b in method.teacher.network.buffers()]
    method.after_step(context())
    for mine, theirs in zip(method.teacher.network.parameters(), method.student.parameters()):
        assert torch.equal(mine, theirs)
    assert all(torch.equal(a, b) for a, b in zip(before, method.teacher.network.buffers()))
    assert all(m.training for m in method.teacher.modules())
    method.step("student", batches(), context())
    assert not all(torch.equal(a, b) for a, b in zip(before, method.teacher.network.buffers()))


def test_a_teacher_option_keeps_the_published_rest():
    teacher = MeanTeacherOptions.model_validate({"teacher": {"decay": 0.999}}).teacher
    assert (teacher.decay, teacher.warmup, teacher.buffers, teacher.mode) == (0.999, True, "own", "train")


def test_oracle_teacher_gives_the_brier_loss(unet, batches, context, stored):
    """No noise, weight 1: the loss on u is the squared distance to the oracle's probabilities."""
    method = MeanTeacher(unet(), MeanTeacherOptions(weight=1, ramp=0, start=0, noise=0))
    oracle = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    method.teacher = stored(oracle)
    method.student.eval()
    batch = batches()
    loss = method.step("student", batch, context()).loss
    x, u = batch["labelled"], batch["unlabelled"]
    supervised = context().task.supervised_loss(method.student(x.image), x.labels)
    brier = (method.student(u.image).softmax(1) - oracle.softmax(1)).square().mean()
    assert loss.item() == pytest.approx((supervised + brier).item(), abs=1e-6)


@pytest.mark.parametrize("options", [MeanTeacherOptions(start=0), UaMtOptions(), CpsOptions()])
def test_deep_supervision_counts_at_full_resolution(options, batches, context):
    """The supervised loss reads every output of the decoder, the unlabelled one the first: no softmax over outputs."""

    def network(deep: int) -> torch.nn.Module:
        with seeded("deep"):
            plain, deeper = (DynUNetOptions(features=(4, 8, 8), deep_supervision=d).build(2, 1, 3, ()) for d in (0, 1))
        deeper.load_state_dict(plain.state_dict(), strict=False)
        return deeper if deep else plain

    def unlabelled_loss(deep: int) -> float:
        method = options.build(lambda _: network(deep)).train()
        logs = method.step("student", batches(), context()).logs
        return logs.get("loss_consistency", logs.get("loss_cross")).item()

    assert unlabelled_loss(1) == pytest.approx(unlabelled_loss(0), rel=1e-5)
