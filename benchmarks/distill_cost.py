"""What each dense distillation loss costs: time and memory of forward and backward, against plain Dice + CE.

    OMP_NUM_THREADS=1 python benchmarks/distill_cost.py [--size 2 14 96 96 96] [--rounds 3]

Writes docs/results/distill_cost.md. Memory: the largest resident size of a fresh process that makes the tensors and
takes one forward and backward. Time: processor seconds in one process, all losses in turn within a round, the median
over rounds of the ratio to Dice + CE of the same round, so that a busy machine slows all alike. Where torchdistill
(extra `test`) has the same loss it stands beside ours.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from datetime import date
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn

from medkd.distill.losses.attention_transfer import attention_transfer_loss
from medkd.distill.losses.bpkd import BPKDLoss
from medkd.distill.losses.cwd import cwd_loss
from medkd.distill.losses.dist import dist_loss
from medkd.distill.losses.dkd import dkd_loss
from medkd.distill.losses.fitnets import FitNetLoss
from medkd.distill.losses.hinton import bernoulli_kd_loss, hinton_kd_loss
from medkd.distill.losses.mgd import MGDLoss
from medkd.distill.losses.ofa import ofa_loss
from medkd.distill.losses.pld import pld_loss
from medkd.distill.losses.reviewkd import hierarchical_context_loss
from medkd.distill.losses.similarity_preserving import similarity_preserving_loss
from medkd.segmentation.losses import DiceCE
from medkd.segmentation.options import SupervisedLoss

RESULTS = Path(__file__).parents[1] / "docs" / "results"
PLAIN = "Dice + CE"
NOTHING = "the tensors alone"
THEIRS = " (torchdistill)"
Loss = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Of student (with gradient) and teacher (B, C, D, H, W), and labels (B, D, H, W)."""


def ours(size: Sequence[int]) -> dict[str, Loss]:
    """Every dense loss. Those between features compare tensors of the same size; their projectors are trained too."""
    classes, dims = size[1], len(size) - 2
    torch.manual_seed(0)
    plain = DiceCE(SupervisedLoss())
    fitnets, mgd = FitNetLoss(classes, classes, dims), MGDLoss(classes, classes, dims)
    bpkd = {form: BPKDLoss(classes, dims, 7, form) for form in ("paper", "stable")}  # type: ignore[arg-type]
    uniform = torch.rand(size[0], 1, *size[2:])
    return {
        PLAIN: lambda s, t, y: plain(s, y),
        "Hinton": lambda s, t, y: hinton_kd_loss(s, t),
        "Hinton, standardised": lambda s, t, y: hinton_kd_loss(s, t, standardise=True),
        "Bernoulli": lambda s, t, y: bernoulli_kd_loss(s, t),
        "DKD": lambda s, t, y: dkd_loss(s, t, y),
        "DIST": lambda s, t, y: dist_loss(s, t),
        "OFA, one exit": lambda s, t, y: ofa_loss(s, t, y, 1.5),
        "PLD": lambda s, t, y: pld_loss(s, t, y),
        "CWD": lambda s, t, y: cwd_loss(s, t),
        "BPKD, paper": lambda s, t, y: bpkd["paper"](s, t, y),
        "BPKD, stable": lambda s, t, y: bpkd["stable"](s, t, y),
        "Attention Transfer": lambda s, t, y: attention_transfer_loss(s, t),
        "Similarity-Preserving": lambda s, t, y: similarity_preserving_loss(s, t),
        "hierarchical context (ReviewKD)": lambda s, t, y: hierarchical_context_loss(s, t),
        "FitNets": lambda s, t, y: fitnets(s, t),
        "MGD": lambda s, t, y: mgd(s, t, uniform),
    }


def torchdistill(size: Sequence[int]) -> dict[str, Loss]:
    """The same computation in torchdistill, under our name; empty without it."""
    try:
        from torchdistill.losses import mid_level
    except ImportError:
        return {}
    both = {f"{side}_module_{what}": "m" if what == "path" else "output"
            for side in ("student", "teacher") for what in ("path", "io")}  # fmt: skip
    layer = {"io": "output", "path": "m"}
    kd = mid_level.KDLoss(temperature=4.0, alpha=0.0, **both)
    standardised = mid_level.LogitStdKDLoss(temperature=4.0, alpha=0.0, **both)
    dist = mid_level.DISTLoss(beta=1.0, gamma=1.0, tau=1.0, **both)
    at = mid_level.ATLoss(at_pairs={"pair": {"teacher": layer, "student": layer, "weight": 1}}, mode="code")
    sp = mid_level.SPKDLoss("m", "m", "batchmean")
    torch.manual_seed(0)
    projector = nn.Conv3d(size[1], size[1], 1) if len(size) == 5 else nn.Conv2d(size[1], size[1], 1)

    def io(x: Tensor) -> dict[str, dict[str, Tensor]]:
        return {"m": {"output": x}}

    def rows(x: Tensor) -> Tensor:
        return x.movedim(1, -1).reshape(-1, x.shape[1])

    return {
        "Hinton": lambda s, t, y: kd(io(s), io(t), None),
        "Hinton, standardised": lambda s, t, y: standardised(io(s), io(t), None),
        "DIST": lambda s, t, y: dist(io(rows(s)), io(rows(t))),
        "Attention Transfer": lambda s, t, y: at(io(s.flatten(3)), io(t.flatten(3))),
        "Similarity-Preserving": lambda s, t, y: sp(io(s), io(t)),
        "FitNets": lambda s, t, y: nn.functional.mse_loss(projector(s), t),
    }


def all_losses(size: Sequence[int]) -> dict[str, Loss]:
    return ours(size) | {name + THEIRS: loss for name, loss in torchdistill(size).items()}


def tensors(size: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, and labels in blocks of 8 voxels: borders everywhere, but not in every voxel."""
    g = torch.Generator().manual_seed(0)
    student, teacher = (torch.randn(*size, generator=g).mul_(3) for _ in range(2))  # no copy that would count
    coarse = torch.randint(size[1], (size[0], 1, *(-(-n // 8) for n in size[2:])), generator=g).float()
    labels = nn.functional.interpolate(coarse, size=tuple(size[2:]), mode="nearest")[:, 0].long()
    return student.requires_grad_(), teacher, labels


def step(loss: Loss, student: Tensor, teacher: Tensor, labels: Tensor) -> float:
    """Forward and backward; the processor seconds they took."""
    student.grad = None
    started = time.process_time()
    loss(student, teacher, labels).backward()  # type: ignore[no-untyped-call]
    return time.process_time() - started


def largest_resident_size(name: str, size: Sequence[int]) -> float:
    """MiB of a fresh process that takes one step of the loss, or makes the tensors alone."""
    command = [sys.executable, __file__, "--alone", name, "--size", *map(str, size)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def alone(name: str, size: Sequence[int]) -> None:
    given = tensors(size)
    losses = all_losses(size) if name.endswith(THEIRS) else ours(size)  # to import a library takes memory too
    if not name.startswith(NOTHING):
        step(losses[name], *given)
    # Not ru_maxrss: that of a new process starts at the size of the one that made it.
    high = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    print(int(high.split()[1]) / 1024)


def seconds(size: Sequence[int], rounds: int) -> dict[str, list[float]]:
    """Of every loss in every round; a first round, which warms up, is left out."""
    losses, given = all_losses(size), tensors(size)
    spent: dict[str, list[float]] = {name: [] for name in losses}
    for number in range(rounds + 1):
        for name, loss in losses.items():
            taken = step(loss, *given)
            if number:
                spent[name].append(taken)
    return spent


def page(
    size: Sequence[int], spent: dict[str, list[float]], memory: dict[str, float], load: tuple[float, float]
) -> str:
    from medkd.claims.accounting import processor  # not in the processes whose memory is measured
    from medkd.claims.page import markdown

    rounds = len(spent[PLAIN])
    base, one = memory[NOTHING], torch.Size(size).numel() * 4 / 2**20
    extra = {name: memory[name] - memory[NOTHING + THEIRS if name.endswith(THEIRS) else NOTHING] for name in spent}

    def ratio(name: str, to: str) -> float:
        return median(a / b for a, b in zip(spent[name], spent[to]))

    rows = []
    for name in ours(size):
        other = name + THEIRS
        row = [name, f"{median(spent[name]):.2f}", f"{ratio(name, PLAIN):.2f}", f"{memory[name]:.0f}",
               f"{extra[name] / one:.1f}", f"{extra[name] / extra[PLAIN]:.2f}"]  # fmt: skip
        row += [f"{ratio(name, other):.2f}", f"{extra[name] / extra[other]:.2f}"] if other in spent else ["–", "–"]
        rows.append(row)
    heads = ["loss", "CPU s", "time, of Dice + CE", "peak MiB", "beyond the tensors, in logits", "memory, of Dice + CE",
             "time, of torchdistill", "memory, of torchdistill"]  # fmt: skip
    shape = " x ".join(map(str, size))
    return "\n\n".join(
        [
            "# What a dense distillation loss costs",
            f"`OMP_NUM_THREADS={torch.get_num_threads()} python benchmarks/distill_cost.py --size "
            f"{' '.join(map(str, size))} --rounds {rounds}` wrote this page on {date.today()}: {processor()}, "
            f"{torch.get_num_threads()} thread, torch {torch.__version__}, load {load[0]:.1f} to {load[1]:.1f}.",
            f"Float32 logits of {shape} ({one:.0f} MiB), forward and backward. CPU s: median of {rounds} rounds, in "
            "which all take turns; ratios are medians of the ratios within a round. Peak: the largest resident size of "
            f"a fresh process after one step; the process with student, teacher and labels alone has {base:.0f} MiB, "
            "and what is beyond it is given in units of the logits (the student's gradient is one of them). Losses "
            "between features compare tensors of the same size; FitNets and MGD train their projectors too (MGD two "
            "3 x 3 x 3 convolutions of as many channels). Not counted: the teacher's own forward.",
            markdown(heads, rows),
        ]
    ) + "\n"  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, nargs="+", default=[2, 14, 96, 96, 96])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--alone", help="take one step of this loss and print the largest resident size in MiB")
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    if a.alone:
        alone(a.alone, a.size)
        return
    from medkd.data.dataset import write_whole

    load = os.getloadavg()[0]
    names = (NOTHING, NOTHING + THEIRS, *all_losses(a.size))
    memory = {name: largest_resident_size(name, a.size) for name in names}
    spent = seconds(a.size, a.rounds)
    a.out.mkdir(parents=True, exist_ok=True)
    write_whole(a.out / "distill_cost.md", page(a.size, spent, memory, (load, os.getloadavg()[0])))


if __name__ == "__main__":
    main()
