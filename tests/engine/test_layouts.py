"""Memory order, compilation and precision: options that may change the speed, and not what is learned."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping

import pytest
import torch
from torch import Tensor, nn

from medkd.engine.fit import PhaseRun
from medkd.engine.method import Batch, Method, StepContext, StepOutput
from medkd.engine.options import Optimizer
from medkd.engine.phases import Networks, Phase
from medkd.engine.randomness import Draws, generator, seeded
from medkd.engine.runtime import Runtime
from medkd.engine.shallow_convolutions import ShallowConv3d
from medkd.engine.teachers import EmaTeacher
from medkd.engine.tracking import Tracker

CPU = torch.device("cpu")
STEPS = 20


class Consistency(Method):
    """A segmentation loss and the agreement with a moving average, on images of two or three axes."""

    reads: Mapping[str, tuple[str, ...]] = {"student": ("labelled",)}

    def __init__(self, student: nn.Module):
        super().__init__()
        self.student, self.teacher = student, EmaTeacher(student, 0.9)
        self.losses: list[float] = []
        self.contiguous: list[bool] = []

    def step(self, turn: str, batch: Mapping[str, Batch], ctx: StepContext) -> StepOutput:
        x = batch["labelled"]
        logits = self.student(x.image).float()
        consistency = (logits.softmax(1) - self.teacher(x.image).float().softmax(1)).square().mean()
        loss = nn.functional.cross_entropy(logits, x.labels) + consistency
        self.losses.append(float(loss.detach()))
        self.contiguous.append(x.image.is_contiguous())
        return StepOutput(loss)

    def after_step(self, ctx: StepContext) -> None:
        self.teacher.update(self.student)


class Squares:
    """Noise with a bright square."""

    def __init__(self, dims: int, device: torch.device = CPU):
        self.dims, self.device = dims, device

    def batch(self, step: int) -> Batch:
        shape = (4, 2, *[8] * self.dims)
        image = torch.randn(shape, generator=generator("image", step))
        label = torch.zeros(4, *shape[2:], dtype=torch.int64)
        label[(slice(None), *[slice(2, 6)] * self.dims)] = 1
        image[:, 0] += label
        names = tuple(f"c{i}" for i in range(4))
        return Batch(image.to(self.device), label.to(self.device), names, Draws((0, step, "labelled"), 4))


class NoTask:
    primary = "score"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        raise AssertionError("not used")

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"score": 0.0}


def network(dims: int) -> Networks:
    conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dims == 2 else (nn.Conv3d, nn.BatchNorm3d)

    def make(which: int | str) -> nn.Module:
        with seeded("network", which):
            return nn.Sequential(conv(2, 8, 3, padding=1), norm(8), nn.ReLU(), conv(8, 2, 3, padding=1))

    return make


def trained(runtime: Runtime, dims: int = 2) -> Consistency:
    def build(networks: Networks) -> Consistency:
        return Consistency(networks(0))

    made = Phase("only", build, STEPS, {"labelled": Squares(dims, runtime.device)}, Optimizer(lr=0.05))
    run = PhaseRun(made, network(dims), NoTask(), runtime, 0, Tracker(), {}, {}, 0)
    for _ in range(STEPS):
        run.train_one()
    run.method.skipped = run.skipped
    return run.method


def assert_same_losses(one: Consistency, other: Consistency, rtol: float = 1e-5) -> None:
    assert len(one.losses) == len(other.losses) == STEPS
    assert one.losses[-1] < 0.8 * one.losses[0]  # something was learned
    torch.testing.assert_close(torch.tensor(other.losses), torch.tensor(one.losses), rtol=rtol, atol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_channels_last_changes_the_order_in_memory_and_not_the_loss(dims: int) -> None:
    plain, last = trained(Runtime(CPU), dims), trained(Runtime(CPU, channels_last=True), dims)
    assert_same_losses(plain, last)
    assert all(plain.contiguous)
    assert not any(last.contiguous)
    order = torch.channels_last if dims == 2 else torch.channels_last_3d
    for whose in (last.student, last.teacher.network):
        assert whose[0].weight.is_contiguous(memory_format=order)
        assert not whose[0].weight.is_contiguous()


@pytest.mark.slow
@pytest.mark.parametrize("dims", [2, 3])
def test_compiling_changes_neither_the_loss_nor_the_names_of_the_weights(
    dims: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler")
    plain = trained(Runtime(CPU), dims)
    compiled, calls = nn.Module.compile, []
    monkeypatch.setattr(nn.Module, "compile", lambda self, *a, **k: (calls.append(self), compiled(self, *a, **k))[1])
    fast = trained(Runtime(CPU, compile=True), dims)
    assert len(calls) == 1
    assert fast.student._compiled_call_impl is not None
    assert_same_losses(plain, fast)
    assert fast.state_dict().keys() == plain.state_dict().keys()


def on_gpu(**values: object) -> Callable[[], Consistency]:
    return lambda: trained(Runtime(torch.device("cuda", 0), **values))


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains_on_a_gpu_and_its_teacher_is_float32(precision: str) -> None:
    method = on_gpu(precision=precision)()
    assert method.losses[-1] < 0.8 * method.losses[0]
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in method.parameters())
    assert_same_losses(trained(Runtime(CPU)), method, rtol=0.05)


@pytest.mark.gpu
def test_a_gpu_learns_what_the_cpu_learns() -> None:
    assert_same_losses(trained(Runtime(CPU)), on_gpu()(), rtol=1e-3)


@pytest.mark.gpu
def test_channels_last_on_a_gpu() -> None:
    assert_same_losses(on_gpu()(), on_gpu(channels_last=True)(), rtol=1e-3)


@pytest.mark.gpu
def test_compiling_on_a_gpu() -> None:
    assert_same_losses(on_gpu()(), on_gpu(compile=True)(), rtol=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "fp32"])
def test_bfloat16_on_a_cpu_is_trained_with_guarded_convolutions(precision: str) -> None:
    phase = Phase("only", lambda networks: Consistency(networks(0)), STEPS, {}, Optimizer())
    run = PhaseRun(phase, network(3), NoTask(), Runtime(CPU, precision), 0, Tracker(), {}, {}, 0)
    guarded = {isinstance(m, ShallowConv3d) for m in run.method.modules() if isinstance(m, nn.Conv3d)}
    assert guarded == {precision == "bf16"}
