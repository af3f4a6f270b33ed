"""What a teacher costs: time and memory of each kind against the plain step, docs/results/teachers.md.

    python benchmarks/teachers.py [--device cpu|cuda]        half a minute on a CPU core

One network (BasicUNet of the recommended recipe, 64 x 64 pixels, batch 4), one process, one thread. The arms take a
step each in turn, many times over, and the fastest step of each counts: on a CPU in time of the processor, so that
other work on the machine counts as little as it can. Ratios are to the plain step: forward, backward, AdamW.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from medkd.engine.teachers import EmaTeacher, FrozenTeacher
from medkd.networks.options import BasicUNetOptions

PAGE = Path(__file__).parents[1] / "docs" / "results" / "teachers.md"
BATCH, PIXELS, ROUNDS = 4, 64, 30


def network(device: torch.device, channels: int = 1) -> nn.Module:
    options = BasicUNetOptions(features=(12, 24, 48, 96, 192), norm="instance", dropout=(0.0,))
    return options.build(2, channels, 4, (PIXELS, PIXELS)).to(device)


@dataclass
class Arm:
    """A training step. loss(logits, image) is added to the cross-entropy; after() runs at the end."""

    student: nn.Module
    loss: Callable[[Tensor, Tensor], Tensor] | None = None
    after: Callable[[], None] | None = None
    others: tuple[nn.Module, ...] = ()
    trains: bool = True
    fastest: float = field(default=float("inf"))

    def __post_init__(self) -> None:
        device = next(self.student.parameters()).device
        self.optimizer = torch.optim.AdamW(self.student.parameters(), 1e-3, foreach=True)
        self.image = torch.randn(BATCH, 1, PIXELS, PIXELS, device=device)
        self.label = torch.randint(4, (BATCH, PIXELS, PIXELS), device=device)

    def step(self) -> None:
        if self.trains:
            self.optimizer.zero_grad(set_to_none=True)
            logits = self.student(self.image)
            total = nn.functional.cross_entropy(logits, self.label)
            (total + self.loss(logits, self.image) if self.loss else total).backward()
            self.optimizer.step()
        if self.after:
            self.after()

    def kept(self) -> int:
        """Bytes that stay from step to step: weights, buffers, gradients, the optimiser's moments."""
        modules = nn.ModuleList([self.student, *self.others])
        tensors = [*modules.parameters(), *modules.buffers()]
        tensors += [p.grad for p in modules.parameters() if p.grad is not None]
        tensors += [v for state in self.optimizer.state.values() for v in state.values() if isinstance(v, Tensor)]
        return sum(t.numel() * t.element_size() for t in tensors)


def agreement(teacher: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, image: (logits.softmax(1) - teacher(image).softmax(1)).square().mean()


def ema(device: torch.device, students: int = 1, forward: bool = True, trains: bool = True) -> Arm:
    student = network(device)
    teacher, more = EmaTeacher(student, 0.99), tuple(network(device) for _ in range(students - 1))
    loss = agreement(teacher) if forward else None
    return Arm(student, loss, lambda: teacher.update(student, *more), (teacher,), trains)


def frozen(device: torch.device) -> Arm:
    teacher = FrozenTeacher(network(device))
    return Arm(network(device), agreement(teacher), None, (teacher,))


def differentiable(device: torch.device) -> Arm:
    """The teacher reads the student's output: gradients pass through it."""
    teacher = FrozenTeacher(network(device, channels=4), differentiable=True)
    return Arm(network(device), lambda logits, image: teacher(logits).square().mean(), None, (teacher,))


PLAIN, ALONE = "plain step, no teacher", "EMA update alone"
ARMS: dict[str, Callable[[torch.device], Arm]] = {
    PLAIN: lambda device: Arm(network(device)),
    ALONE: lambda device: ema(device, forward=False, trains=False),
    "EMA update alone, of two students": lambda device: ema(device, students=2, forward=False, trains=False),
    "EMA teacher: forward and update": ema,
    "frozen teacher: forward": frozen,
    "frozen, gradient passes through": differentiable,
}


def timed(arm: Arm, device: torch.device) -> float:
    """Seconds of one step: of the processor on a CPU, of the clock on a GPU."""
    if device.type == "cpu":
        started = time.process_time()
        arm.step()
        return time.process_time() - started
    torch.cuda.synchronize(device)
    started = time.perf_counter()
    arm.step()
    torch.cuda.synchronize(device)
    return time.perf_counter() - started


def page(arms: dict[str, Arm], device: torch.device) -> str:
    first = arms[PLAIN]
    rows = "\n".join(
        f"| {name} | {1000 * arm.fastest:.2f} | {arm.fastest / first.fastest:.3f} | "
        + (f"{arm.kept() / first.kept():.2f} |" if arm.trains else "|")
        for name, arm in arms.items()
    )
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    weights = sum(p.numel() * p.element_size() for p in first.student.parameters()) / 2**20
    return (
        "# What a teacher costs\n\n"
        f"`python benchmarks/teachers.py --device {device.type}` wrote this page.\n\n"
        f"BasicUNet (12 to 192 channels, {weights:.1f} MiB of weights), {BATCH} images of {PIXELS} x {PIXELS}, "
        f"float32, {where}, one thread, torch {torch.__version__}. The fastest of {ROUNDS} steps of each arm, "
        "in turn, one run; on a CPU it is the processor's time, on a machine that did other work too: read the "
        "ratios.\n\n"
        "| step | ms | time, to the plain step | memory kept between steps, to the plain step |\n|---|---|---|---|\n"
        f"{rows}\n\nMemory kept: weights, gradients, two AdamW moments, and the teacher's weights. Activations are not "
        "counted: those of a teacher without gradient are freed layer by layer, those of one that gradients pass "
        "through are kept like the student's.\n"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    arms = {name: make(device) for name, make in ARMS.items()}
    for arm in arms.values():
        arm.step()
    for _ in range(ROUNDS):
        for arm in arms.values():
            arm.fastest = min(arm.fastest, timed(arm, device))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(arms, device))
    print(PAGE.read_text())


if __name__ == "__main__":
    main()
