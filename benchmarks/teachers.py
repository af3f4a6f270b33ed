"""What a teacher costs: time and memory of each kind against the plain step, docs/results/teachers.md.

    python benchmarks/teachers.py [--device cpu|cuda]        a minute on a CPU core

One network (BasicUNet of the recommended recipe, 2 x 96 x 96 pixels a sample, batch 8), one process, each arm in turn,
several rounds interleaved, the best round of each. Ratios are to the plain step: forward, backward, AdamW.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from medkd.engine.teachers import EmaTeacher, FrozenTeacher
from medkd.networks.options import BasicUNetOptions

PAGE = Path(__file__).parents[1] / "docs" / "results" / "teachers.md"
BATCH, PIXELS, STEPS, ROUNDS = 8, 96, 4, 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    device = torch.device(parser.parse_args().device)
    torch.manual_seed(0)
    arms = {name: make(device) for name, make in ARMS.items()}
    best = dict.fromkeys(arms, float("inf"))
    for _ in range(ROUNDS):
        for name, arm in arms.items():
            best[name] = min(best[name], timed(arm, device))
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(best, memory(device), device))
    print(PAGE.read_text())


def network(device: torch.device) -> nn.Module:
    options = BasicUNetOptions(features=(12, 24, 48, 96, 192), norm="instance", dropout=(0.0,))
    return options.build(2, 1, 4, (PIXELS, PIXELS)).to(device)


Step = Callable[[], None]


def plain(device: torch.device, loss: Callable[[Tensor, Tensor], Tensor] | None = None, after: Step | None = None,
          student: nn.Module | None = None) -> Step:  # fmt: skip
    """One training step; `loss(logits, image)` is added to the cross-entropy, `after` runs at the end."""
    student = student or network(device)
    optimizer = torch.optim.AdamW(student.parameters(), 1e-3, foreach=True)
    image = torch.randn(BATCH, 1, PIXELS, PIXELS, device=device)
    label = torch.randint(4, (BATCH, PIXELS, PIXELS), device=device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        logits = student(image)
        total = nn.functional.cross_entropy(logits, label)
        (total + loss(logits, image) if loss else total).backward()
        optimizer.step()
        if after:
            after()

    return step


def agreement(teacher: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda logits, image: (logits.softmax(1) - teacher(image).softmax(1)).square().mean()


def ema(device: torch.device, students: int = 1, forward: bool = True) -> Step:
    student = network(device)
    teacher = EmaTeacher(student, 0.99)
    others = [network(device) for _ in range(students - 1)]
    loss = agreement(teacher) if forward else None
    return plain(device, loss, lambda: teacher.update(student, *others), student)


def update_alone(device: torch.device) -> Step:
    student = network(device)
    teacher = EmaTeacher(student, 0.99)
    return lambda: teacher.update(student)


def frozen(device: torch.device) -> Step:
    return plain(device, agreement(FrozenTeacher(network(device))))


def differentiable(device: torch.device) -> Step:
    """The teacher reads the student's output: gradients pass through it."""
    teacher = FrozenTeacher(BasicUNetOptions(features=(12, 24, 48, 96, 192), norm="instance", dropout=(0.0,)).build(
        2, 4, 4, (PIXELS, PIXELS)).to(device), differentiable=True)  # fmt: skip
    return plain(device, lambda logits, image: teacher(logits).square().mean())


ARMS: dict[str, Callable[[torch.device], Step]] = {
    "plain step, no teacher": plain,
    "EMA update alone": update_alone,
    "plain step + EMA update": lambda device: ema(device, forward=False),
    "EMA teacher: forward and update": ema,
    "EMA of two students: forward and update": lambda device: ema(device, students=2),
    "frozen teacher: forward": frozen,
    "frozen, gradient passes through": differentiable,
}


def timed(step: Step, device: torch.device) -> float:
    """Seconds a step, the mean of a few after one that warms up."""
    step()
    sync(device)
    started = time.perf_counter()
    for _ in range(STEPS):
        step()
    sync(device)
    return (time.perf_counter() - started) / STEPS


def sync(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def memory(device: torch.device) -> str:
    """What a teacher keeps: its weights. The activations of a teacher without gradient are freed layer by layer."""
    student = network(device)
    size = sum(t.numel() * t.element_size() for t in [*student.parameters(), *student.buffers()])
    teacher = EmaTeacher(student)
    kept = sum(t.numel() * t.element_size() for t in [*teacher.parameters(), *teacher.buffers()])
    text = (
        f"Memory kept beside the activations, in copies of the student's weights ({size / 2**20:.1f} MiB): plain step "
        f"4 (weights, gradients, two AdamW moments), with an EMA teacher {4 + kept / size:.0f}, with a frozen one 5."
    )
    if device.type == "cuda":
        peaks = {}
        for name, make in ARMS.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
            step = make(device)
            step()
            peaks[name] = torch.cuda.max_memory_allocated(device)
        first = peaks["plain step, no teacher"]
        text += " Peak allocated, as a ratio: " + "; ".join(f"{n} {p / first:.2f}" for n, p in peaks.items()) + "."
    return text


def page(best: dict[str, float], kept: str, device: torch.device) -> str:
    first = best["plain step, no teacher"]
    rows = "\n".join(f"| {name} | {1000 * t:.1f} | {t / first:.3f} |" for name, t in best.items())
    where = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    return (
        "# What a teacher costs\n\n"
        f"`python benchmarks/teachers.py --device {device.type}` wrote this page.\n\n"
        f"BasicUNet (12 to 192 channels), {BATCH} images of {PIXELS} x {PIXELS}, float32, {where}, "
        f"{torch.get_num_threads()} thread, torch {torch.__version__}. The best of {ROUNDS} interleaved rounds of "
        f"{STEPS} steps, one run, on a machine that did other work too: read the ratios.\n\n"
        f"| step | ms | ratio to the plain step |\n|---|---|---|\n{rows}\n\n{kept}\n"
    )


if __name__ == "__main__":
    main()
