"""What a training step costs: through the engine against a bare loop, by part, and with other ways to compute it.

    python benchmarks/engine_cost.py [--pairs 20] [--repeats 5] [--rounds 15] [--threads 1]

Writes docs/results/engine_cost.md and engine_cost.json. Every comparison is interleaved, one step of each in turn, so
that a busy machine slows both alike: read the ratios. The step is BCP's on generated patients (pictures cost the same
whatever they show), at 96 x 96 pixels, 12 labelled and 12 unlabelled images.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import torch

from medkd.claims.accounting import processor
from medkd.claims.page import markdown
from medkd.config.load import parse_recipe
from medkd.config.recipe import Recipe
from medkd.data.components import largest_component
from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.data.streams import ArrayStream
from medkd.engine import fit as engine
from medkd.engine.fit import PhaseRun
from medkd.engine.randomness import generator
from medkd.engine.runtime import Runtime
from medkd.engine.teachers import EmaTeacher
from medkd.engine.tracking import Tracker
from medkd.runs.prepare import prepare
from medkd.runs.train import build
from medkd.segmentation import bcp
from medkd.segmentation.losses import region_dice_ce
from medkd.segmentation.mixing import PasteMask, paste

RESULTS = Path(__file__).parents[1] / "docs" / "results"
WARM_UP = 3
SMALL = {"features": [12, 24, 48, 96, 192], "norm": "instance", "dropout": [0.0]}
PUBLISHED = {"features": [16, 32, 64, 128, 256], "norm": "batch"}
ADAMW = {"kind": "adamw", "lr": 0.001}
SGD = {"kind": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1.0e-4}
PARTS = ("data", "teacher", "components", "composites", "student forward", "loss", "backward", "optimizer", "EMA")


def published_recipe(data: Path, steps: int, **method: bool) -> Recipe:
    return recipe_of(data, PUBLISHED, {"preset": "faithful_2d", **method}, "bcp", SGD, steps)


def recipe_of(
    data: Path,
    network: dict[str, Any],
    method: dict[str, Any],
    augment: str,
    optimizer: dict[str, Any],
    steps: int,
) -> Recipe:
    stream = {"size": 12, "augment": {"preset": augment}}
    return parse_recipe(
        {
            "data": str(data),
            "preprocess": {"dims": 2, "size": [96, 96], "patch": [96, 96]},
            "network": {"kind": "BasicUNet", **network},
            "labelled": stream,
            "unlabelled": stream,
            "phases": [
                {"name": "selftrain", "method": {"kind": "bcp", **method}, "steps": steps, "optimizer": optimizer},
            ],
        }
    )  # fmt: skip


def phase_run(recipe: Recipe, precision: str = "fp32", out: Path | None = None) -> PhaseRun:
    """One phase, ready to take steps as `fit` takes them."""
    setup = build(recipe)
    runtime = Runtime(setup.runtime.device, precision)
    if out:
        out.mkdir(parents=True)
    return PhaseRun(setup.phases[0], setup.network, setup.task, runtime, 0, Tracker(out), {}, {}, 0)


class BareLoop:
    """BCP's step (recommended preset) as one would write it without an engine, from the same data and losses."""

    def __init__(self, recipe: Recipe):
        setup = build(recipe)
        self.streams = setup.phases[0].streams
        self.student = setup.network(0).train()
        self.teacher = setup.network(0).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.student.parameters(), 0.001, weight_decay=1e-4)
        self.mask = PasteMask()
        self.step = 0
        self.loss = torch.zeros(())

    def take(self) -> None:
        labelled, unlabelled = (self.streams[name].batch(self.step) for name in ("labelled", "unlabelled"))
        x_a, x_b, y_a, y_b = (t[i::2] for t in (labelled.image, labelled.labels) for i in (0, 1))
        u_a, u_b = unlabelled.image[0::2], unlabelled.image[1::2]
        with torch.no_grad():
            pseudo = largest_component(self.teacher(torch.cat([u_a, u_b])).argmax(1), len(CLASSES))
        p_a, p_b = pseudo.chunk(2)
        mask = self.mask((96, 96), generator(0, self.step, "mask"))
        images = torch.cat([paste(u_a, x_a, mask), paste(x_b, u_b, mask)])
        out_label, in_label = paste(p_a, y_a, mask), paste(y_b, p_b, mask)
        out_logits, in_logits = self.student(images).chunk(2)
        loss = region_dice_ce(out_logits, out_label, mask, 0.5, 1.0) + region_dice_ce(
            in_logits, in_label, mask, 1.0, 0.5
        )
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if torch.isfinite(loss):
            self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(list(self.teacher.parameters()), list(self.student.parameters()), 0.01)
        self.loss = loss.detach()
        self.step += 1


def timed(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def overhead(recipe: Recipe, pairs: int, repeats: int, out: Path) -> dict[str, Any]:
    """Ratio of a step through the engine to the bare one: the median of paired steps, for every repeat."""
    ratios, seconds, difference = [], [], 0.0
    for number in range(repeats):
        run, bare = phase_run(recipe, out=out / str(number)), BareLoop(recipe)
        losses: list[float] = []

        def ours(run: PhaseRun = run) -> None:
            run.train_one()

        with patch.object(PhaseRun, "take_turn", recording(PhaseRun.take_turn, losses)):
            pair = []
            for index in range(WARM_UP + pairs):
                order = (ours, bare.take) if index % 2 else (bare.take, ours)  # neither is always the second
                times = {work: timed(work) for work in order}
                pair.append((times[ours], times[bare.take]))
                difference = max(difference, abs(losses[-1] - float(bare.loss)))
        kept = pair[WARM_UP:]
        ratios.append(median(a / b for a, b in kept))
        seconds.append(median(b for _, b in kept))
    return {
        "ratios": [round(r, 4) for r in ratios],
        "bare_seconds": round(median(seconds), 4),
        "largest_loss_difference": difference,
        "pairs": pairs,
    }


def recording(original: Callable[..., Any], losses: list[float]) -> Callable[..., Any]:
    def take_turn(self: PhaseRun, *rest: Any) -> Any:
        result = original(self, *rest)
        losses.append(float(result[0]))
        return result

    return take_turn


@contextmanager
def stopwatches() -> Iterator[dict[str, float]]:
    """Inside, the named parts of a step add up their seconds. No part is inside another."""
    spent: dict[str, float] = defaultdict(float)

    def clocked(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            result = original(*args, **kwargs)
            spent[name] += time.perf_counter() - start
            return result

        return run

    places = [
        (ArrayStream, "batch", "data"), (EmaTeacher, "forward", "teacher"), (bcp, "largest_component", "components"),
        (bcp, "paste", "composites"), (PasteMask, "__call__", "composites"), (bcp, "region_dice_ce", "loss"),
        (torch.Tensor, "backward", "backward"), (torch.optim.AdamW, "step", "optimizer"),
        (engine, "gradient_norm", "optimizer"), (EmaTeacher, "update", "EMA"),
    ]  # fmt: skip
    with ExitStack() as stack:
        for owner, attribute, name in places:
            stack.enter_context(patch.object(owner, attribute, clocked(name, getattr(owner, attribute))))
        yield spent


def parts(run: PhaseRun, rounds: int) -> dict[str, float]:
    """Seconds of a step and of its named parts: medians over the rounds."""
    rows: dict[str, list[float]] = defaultdict(list)
    started = [0.0]
    student = run.method.student
    before = student.register_forward_pre_hook(lambda *_: started.__setitem__(0, time.perf_counter()))
    with stopwatches() as spent:

        def end(*_: object) -> None:
            spent["student forward"] += time.perf_counter() - started[0]

        after = student.register_forward_hook(end)
        for index in range(WARM_UP + rounds):
            spent.clear()
            seconds = timed(run.train_one)
            if index >= WARM_UP:
                rows["step"].append(seconds)
                for name in PARTS:
                    rows[name].append(spent[name])
                rows["named share"].append(sum(spent.values()) / seconds)
    before.remove()
    after.remove()
    return {name: round(median(values), 5) for name, values in rows.items()}


def variants(data: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """The published network and batch, and other ways to compute the same step, in turn."""
    steps = WARM_UP + rounds
    published, joint = published_recipe(data, steps), published_recipe(data, steps, joint_forward=True)
    runs = {
        "as published: two forwards": phase_run(published),
        "one batch for both composites": phase_run(joint),
        "one batch, channels_last": phase_run(joint),
        "one batch, bf16": phase_run(joint, "bf16"),
        "one batch, channels_last, bf16": phase_run(joint, "bf16"),
    }
    for name, run in runs.items():
        if "channels_last" in name:
            run.method.to(memory_format=torch.channels_last)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for index in range(steps):
        for name, run in runs.items():
            taken = timed(run.train_one)
            if index >= WARM_UP:
                seconds[name].append(taken)
    base = seconds["as published: two forwards"]
    return {
        name: {"seconds": round(median(s), 4), "ratio": round(median(a / b for a, b in zip(s, base)), 3)}
        for name, s in seconds.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_cohort(folder / "cohort", PhantomOptions(labelled=2, unlabelled=8, validation=1, test=1))
        data = folder / "data"
        prepare(folder / "cohort", data, table=folder / "cohort" / "cases.csv", classes=CLASSES)
        steps = WARM_UP + max(a.pairs, a.rounds) + 1
        small = recipe_of(data, SMALL, {}, "light", ADAMW, steps)
        published = published_recipe(data, steps)
        result = {
            "overhead": overhead(small, a.pairs, a.repeats, folder),
            "parts": parts(phase_run(small), a.rounds),
            "published_parts": parts(phase_run(published), a.rounds),
            "variants": variants(data, a.rounds),
        }
    result["machine"] = {
        "processor": processor(), "cores": os.cpu_count(), "threads": a.threads, "torch": torch.__version__,
        "load": [round(v, 1) for v in (*load, os.getloadavg()[0])],
    }  # fmt: skip
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "engine_cost.json").write_text(json.dumps(result, indent=1) + "\n")
    command = f"python benchmarks/engine_cost.py --pairs {a.pairs} --repeats {a.repeats} --rounds {a.rounds}"
    (a.out / "engine_cost.md").write_text(page(result, f"{command} --threads {a.threads}"))


def page(result: dict[str, Any], command: str) -> str:
    o, machine = result["overhead"], result["machine"]
    low, high = min(o["ratios"]), max(o["ratios"])
    text = [
        "# What a training step costs",
        f"`{command}` wrote this page. {machine['processor']}, {machine['cores']} cores, {machine['threads']} "
        f"thread(s), torch {machine['torch']}; load of the machine {machine['load'][0]} at the start and "
        f"{machine['load'][1]} at the end. Steps that are compared are taken in turn: read the ratios, not the "
        "milliseconds. BCP at 96 x 96 pixels, 12 labelled and 12 unlabelled images.",
        "## Through the engine against a bare loop",
        f"Median of {o['pairs']} paired steps, by repeat: {', '.join(f'{r:.3f}' for r in o['ratios'])} (from {low:.3f} "
        f"to {high:.3f}; wanted: up to 1.05). A bare step takes {1e3 * o['bare_seconds']:.0f} ms. The two compute the "
        f"same: their losses differ by at most {o['largest_loss_difference']:.1e} over the repeats.",
        "## By part",
        _parts(result["parts"], "The recommended recipe (width 12, instance normalisation, light augmentation)"),
        _parts(result["published_parts"], "The published network (width 16, batch normalisation, dropout), its images"),
        "## Other ways to compute the published step",
        markdown(
            ["step", "ms", "against the first (median of pairs)"],
            [[n, f"{1e3 * v['seconds']:.0f}", f"{v['ratio']:.2f}"] for n, v in result["variants"].items()],
        ),
        "One batch for both composites changes the batch statistics, so the faithful presets keep two forwards.",
    ]
    return "\n\n".join(text) + "\n"


def _parts(row: dict[str, float], words: str) -> str:
    total = row["step"]
    cells = [[name, f"{1e3 * row[name]:.1f}", f"{100 * row[name] / total:.1f} %"] for name in PARTS]
    table = markdown(["part", "ms", "share"], [*cells, ["whole step", f"{1e3 * total:.1f}", ""]])
    return (
        f"{words}. The named parts make {100 * row['named share']:.1f} % of a step (wanted: at least 95 %); data, that "
        f"is assembling and augmenting both batches, {100 * row['data'] / total:.1f} % (wanted: at most 15 %)."
        f"\n\n{table}"
    )


if __name__ == "__main__":
    main()
