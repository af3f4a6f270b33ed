"""Kills training at random moments, resumes it each time, and compares where it ends: docs/results/recovery.md.

    python benchmarks/kill_resume.py [--kills 100] [--seed 0]        minutes on an idle machine, 40 on a busy one

The run is `medkd train` of BCP in two phases on generated patients (32 x 32 pixels, a checkpoint every 3 updates). It
is trained once undisturbed. Then processes are started on a second folder, each killed (SIGKILL) after a random time,
the next resuming; a run that gets to its end before it is killed is compared and begun anew. One parent imports torch
and forks the workers, so that a kill can come every few tenths of a second.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib.pyplot  # noqa: F401 (workers inherit what is imported here)
import torch
import torch.utils.tensorboard

from medkd.config.load import parse_recipe
from medkd.config.recipe import Recipe
from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.engine.checkpoint import load_state
from medkd.errors import InputError
from medkd.runs.prepare import prepare
from medkd.runs.train import train

PAGE = Path(__file__).parents[1] / "docs" / "results" / "recovery.md"
STEPS = (30, 60)
TIMES = ("iterations_per_second", "data_share")


@dataclass
class Outcome:
    """kills: the global step of the last checkpoint at each kill, -1 before the first. moments: what was going on."""

    kills: list[int] = field(default_factory=list)
    moments: dict[str, int] = field(default_factory=dict)
    finished: int = 0
    different: list[str] = field(default_factory=list)
    seconds: float = 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        outcome = experiment(Path(folder), arguments.kills, arguments.seed)
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    PAGE.write_text(page(outcome, arguments.kills, arguments.seed))
    print(PAGE.read_text())
    sys.exit(bool(outcome.different))


def experiment(folder: Path, kills: int, seed: int) -> Outcome:
    """The undisturbed run, then `kills` kills. Trains in forked processes, so call it before torch has run anything."""
    recipe = small_recipe(folder)
    started = time.perf_counter()
    whole, out, rng, outcome = folder / "whole", folder / "killed", random.Random(seed), Outcome()
    assert wait(fork(lambda: train(recipe, whole))) == 0
    length = time.perf_counter() - started
    expected = ending(whole)
    while len(outcome.kills) < kills:
        worker = fork(lambda: train(recipe, out, resume=True))
        time.sleep(rng.uniform(0, 1.1 * length))
        os.kill(worker, signal.SIGKILL)
        code = wait(worker)
        if code == -signal.SIGKILL:
            moment, step = where(out)
            outcome.kills.append(step)
            outcome.moments[moment] = outcome.moments.get(moment, 0) + 1
            continue
        assert code == 0, f"a worker ended with {code}"
        compare(out, expected, outcome)
    assert wait(fork(lambda: train(recipe, out, resume=True))) == 0
    compare(out, expected, outcome)
    outcome.seconds = time.perf_counter() - started
    return outcome


def small_recipe(folder: Path) -> Recipe:
    """BCP on four generated patients, checkpoints as often as the disk allows."""
    write_cohort(folder / "cohort", PhantomOptions(labelled=1, unlabelled=2, validation=1, test=1, size=32))
    prepare(folder / "cohort", folder / "data", table=folder / "cohort/cases.csv", classes=CLASSES)
    stream = {"size": 4, "augment": {"preset": "light"}}
    phase = {"optimizer": {"kind": "adamw", "lr": 0.001}, "validate_every": 15}
    return parse_recipe(
        {
            "data": str(folder / "data"),
            "preprocess": {"size": [32, 32], "patch": [32, 32]},
            "network": {"kind": "BasicUNet", "features": [4, 4, 8, 8, 8], "norm": "batch", "dropout": [0.1]},
            "labelled": stream,
            "unlabelled": stream,
            "phases": [
                {"name": "pretrain", "method": {"kind": "labelled_copy_paste"}, "steps": STEPS[0], **phase},
                {"name": "selftrain", "method": {"kind": "bcp"}, "steps": STEPS[1], "carry_optimizer": True, **phase},
            ],
            "save_every": 3,
            "runtime": {"device": "cpu", "threads": 1},
        }
    )


def fork(work: Callable[[], Any]) -> int:
    """Start `work` in a child; its process number."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def wait(child: int) -> int:
    """The exit code of a child, minus the signal if one ended it."""
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def where(out: Path) -> tuple[str, int]:
    """What a kill interrupted, read from what it left; and the step of the newest whole checkpoint."""
    step = -1
    for name in ("last.safetensors", "previous.safetensors"):
        if step < 0 and (out / name).exists():
            try:
                step = load_state(out / name)["global_step"]
            except InputError:
                continue
    if not (out / "manifest.json").exists():
        return "before the first update", step
    if (out / "last.safetensors.partial").exists() or not (out / "last.safetensors").exists():
        return "writing a checkpoint, or before the first", step
    return ("after the last update: weights, model, report" if step == sum(STEPS) else "training or validating"), step


def ending(out: Path) -> dict[str, str]:
    """Hashes of all that a finished run must have the same: checkpoint, weights, model, and the log without times."""
    files = ("last.safetensors", "weights/best.safetensors", "weights/last.safetensors", "model/model.safetensors")
    hashes = {name: hashlib.sha256((out / name).read_bytes()).hexdigest() for name in files}
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    log = [{k: v for k, v in row.items() if k not in TIMES} for row in rows if row["kind"] != "note"]
    return hashes | {"log.jsonl": hashlib.sha256(json.dumps(log).encode()).hexdigest()}


def compare(out: Path, expected: dict[str, str], outcome: Outcome) -> None:
    """Count a finished run and what differs in it; remove it."""
    outcome.finished += 1
    outcome.different += [name for name, value in ending(out).items() if value != expected[name]]
    shutil.rmtree(out)


def page(outcome: Outcome, kills: int, seed: int) -> str:
    steps = [step for step in outcome.kills if step >= 0]
    verdict = "every one equal bit for bit" if not outcome.different else f"DIFFERENT: {sorted(set(outcome.different))}"
    moments = "\n".join(f"| {name} | {count} |" for name, count in sorted(outcome.moments.items()))
    return (
        "# Killed and resumed\n\n"
        f"`python benchmarks/kill_resume.py --kills {kills} --seed {seed}` wrote this page.\n\n"
        f"`medkd train` of BCP ({STEPS[0]} + {STEPS[1]} updates, batch normalisation, dropout, AdamW, a checkpoint "
        "every 3 updates) on generated patients, killed with SIGKILL at random moments and resumed after each.\n\n"
        f"**{len(outcome.kills)} kills, {outcome.finished} runs brought to their end, {verdict}** to the undisturbed "
        "run: checkpoint (weights, teacher, optimiser, counters), best and last weights, model, and every row of the "
        "log but its times.\n\n"
        f"| what a kill interrupted | kills |\n|---|---|\n{moments}\n\n"
        f"Newest checkpoint at a kill: from update {min(steps)} to {max(steps)} of {sum(STEPS)}, "
        f"{len(set(steps))} different ones. {outcome.seconds:.0f} s on one core of "
        f"{platform.processor() or platform.machine()}, torch {torch.__version__}, CPU, one thread.\n"
    )


if __name__ == "__main__":
    main()
