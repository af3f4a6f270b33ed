"""What holds for every distillation loss (kd_conventions.md 3, 6; classic_kd.md, Invariants)."""

from __future__ import annotations

import pytest
import torch
from loss_cases import CASES, Case, build, pair

EACH = [pytest.param(case, dims, id=f"{case}-{dims}d") for case in CASES for dims in case.dims]
SMALLEST = [pytest.param(case, case.dims[0], id=str(case)) for case in CASES]
SMOKE = [
    pytest.param(case, dims, dtype, id=f"{case}-{dims}d-{str(dtype)[6:]}")
    for case in CASES
    for dims in case.dims
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    if dtype == torch.float32 or dims == case.dims[0]
]


@pytest.mark.parametrize(("case", "dims", "dtype"), SMOKE)
def test_shapes_and_dtypes(case: Case, dims: int, dtype: torch.dtype) -> None:
    """A scalar of at least float32, computed from the rounded input as float32 would; only the student learns."""
    student, teacher = (x.requires_grad_() for x in pair(dims, dtype))
    loss = case.call(build(case, dims, dtype), student, teacher)
    assert loss.shape == ()
    assert loss.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.dtype == dtype
    assert student.grad.isfinite().all()
    assert student.grad.any()
    if dtype != torch.float64:
        exact = case.call(build(case, dims), student.detach().float(), teacher.detach().float())
        assert loss.item() == exact.item()


@pytest.mark.parametrize(("case", "dims"), EACH)
def test_autocast_does_not_reach_the_loss(case: Case, dims: int) -> None:
    """Gram matrices and distances under autocast would be bfloat16. Projectors are networks: there it may."""
    student, teacher = pair(dims)
    exact = case.call(build(case, dims), student, teacher)
    with torch.autocast("cpu", torch.bfloat16):
        loss = case.call(build(case, dims), student, teacher)
    assert loss.dtype == torch.float32
    assert loss.item() == (pytest.approx(exact.item(), rel=0.05) if case.trainable else exact.item())


@pytest.mark.parametrize(("case", "dims"), EACH)
def test_large_half_precision_values_stay_finite(case: Case, dims: int) -> None:
    """16-bit activations of 300 have a square beyond float16; logits of thousands underflow a softmax's log."""
    student, teacher = (x * 1000 for x in pair(dims, torch.float16))
    student.requires_grad_()
    loss = case.call(build(case, dims), student, teacher)
    loss.backward()
    assert loss.isfinite()
    assert student.grad.isfinite().all()


@pytest.mark.parametrize(("case", "dims"), SMALLEST)
def test_gradients(case: Case, dims: int) -> None:
    student, teacher = (x[:3] if dims == 0 else x[:3, :, :2, :2] for x in pair(dims, torch.float64))
    loss = build(case, dims, torch.float64)
    for parameter in loss.parameters():
        parameter.requires_grad_(False)
    assert torch.autograd.gradcheck(
        lambda s: case.call(loss, s, teacher), student.contiguous().requires_grad_(), fast_mode=True
    )


@pytest.mark.parametrize(("case", "dims"), [p for p in EACH if p.values[0].zero_for_equal])
def test_student_equal_to_teacher_gives_zero(case: Case, dims: int) -> None:
    student, _ = pair(dims, torch.float64)
    student.requires_grad_()
    loss = case.call(build(case, dims, torch.float64), student, student.detach().clone())
    assert loss.item() == pytest.approx(0, abs=1e-6)  # the 1e-8 of DIST shows
    loss.backward()
    assert student.grad.abs().max() < 1e-6


NEVER_ZERO = {"pld", "ofa", "crd"}
"""Those that are not at rest where student and teacher agree (kd_conventions.md 6)."""


def test_every_other_loss_is_zero_for_equal_sides() -> None:
    """Those with projectors have tests of their own, with an identity for a projector."""
    skipped = {case.name for case in CASES if not case.zero_for_equal and not case.trainable}
    assert skipped | {"crd"} == NEVER_ZERO


@pytest.mark.parametrize(("case", "dims"), [p for p in EACH if p.values[0].name in NEVER_ZERO])
def test_losses_that_are_never_zero(case: Case, dims: int) -> None:
    student, _ = pair(dims, torch.float64)
    assert case.call(build(case, dims, torch.float64), student, student.clone()) > 0.1


@pytest.mark.parametrize(("case", "dims"), EACH)
def test_different_batches_are_refused(case: Case, dims: int) -> None:
    """Broadcasting one teacher sample over the batch would hide the mistake."""
    student, teacher = pair(dims)
    with pytest.raises(ValueError, match=r"has shape \(1,"):
        case.call(build(case, dims), student, teacher[:1])


@pytest.mark.parametrize(("case", "dims"), SMALLEST)
def test_parts_that_train(case: Case, dims: int) -> None:
    """Every parameter receives gradient; a loss without trainable parts has no state at all."""
    loss = build(case, dims)
    assert bool(list(loss.parameters())) == case.trainable
    if case.trainable:
        case.call(loss, *pair(dims)).backward()
        assert [name for name, p in loss.named_parameters() if p.grad is None or not p.grad.any()] == []
    else:
        assert not loss.state_dict()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("case", "dims"), EACH)
def test_the_device_does_not_matter(case: Case, dims: int) -> None:
    """Also where random numbers come from the CPU, as the engine's do."""
    student, teacher = pair(dims, torch.float64)
    exact = case.call(build(case, dims, torch.float64), student, teacher)
    there = student.cuda().requires_grad_()
    loss = case.call(build(case, dims, torch.float64).cuda(), there, teacher.cuda())
    loss.backward()
    assert loss.item() == pytest.approx(exact.item(), rel=1e-9)
    assert there.grad.isfinite().all()
