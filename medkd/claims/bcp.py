"""The phantom experiment of BCP: all arms, several seeds, and a verdict in words that may be a refusal of the claim."""

from __future__ import annotations

import json
import platform
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from medkd.data.phantom import PhantomOptions, write_cohort
from medkd.runs.evaluate import evaluate
from medkd.runs.phantom import ARMS, PRETRAIN, SELFTRAIN, SIZE, phantom_recipe
from medkd.runs.prepare import prepare
from medkd.runs.train import train

LABELLED = 2


def reproduce(
    out: Path,
    seeds: int,
    *,
    arms: tuple[str, ...] = tuple(ARMS),
    pretrain: int = PRETRAIN,
    selftrain: int = SELFTRAIN,
    console: Console | None = None,
) -> dict[str, Any]:
    """Run every arm on `seeds` cohorts; one JSON line a finished run in `runs.jsonl`, which a re-run skips."""
    out.mkdir(parents=True, exist_ok=True)
    lines = out / "runs.jsonl"
    budget = f"{pretrain}+{selftrain}"
    for seed in range(seeds):
        finished = {r["arm"] for r in read_lines(lines) if (r["seed"], r["budget"]) == (seed, budget)}
        missing = [arm for arm in arms if arm not in finished]
        if not missing:
            continue
        folder = out / f"seed_{seed}"
        dataset = cohort(folder, seed)
        for arm in missing:
            if console:
                console.print(f"seed {seed}, {arm}")
            row = run_arm(arm, dataset, seed, folder / arm, pretrain, selftrain, console)
            with lines.open("a") as file:
                file.write(json.dumps(row | {"budget": budget}) + "\n")
        shutil.rmtree(folder)
    rows = [row for row in read_lines(lines) if row["budget"] == budget and row["seed"] < seeds and row["arm"] in arms]
    return summarise(rows, arms, seeds) | {"budget": budget}


def cohort(folder: Path, seed: int) -> Path:
    """A generated cohort and its dataset folder."""
    dataset = folder / "dataset"
    if not (dataset / "dataset.yaml").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_cohort(folder / "source", PhantomOptions(labelled=LABELLED, seed=seed, size=SIZE))
        prepare(
            folder / "source", dataset, table=folder / "source" / "cases.csv", classes=("background", "rv", "myo", "lv")
        )
    return dataset


def run_arm(
    arm: str, dataset: Path, seed: int, folder: Path, pretrain: int, selftrain: int, console: Console | None
) -> dict[str, Any]:
    """Train and evaluate one arm; its line for the record."""
    started = time.perf_counter()
    recipe = phantom_recipe(arm, dataset, seed, pretrain, selftrain)
    train(recipe, folder, overwrite=True, console=console)
    seconds = time.perf_counter() - started
    row: dict[str, Any] = {"arm": arm, "seed": seed, "seconds": round(seconds, 1)}
    for weights in ("best", "last"):
        scores = evaluate(folder, dataset, "test", weights=weights, pictures=False).summary["mean_over_classes"]
        row[f"dice_{weights}"] = scores["metrics"]["dice"]["mean"]
        row[f"missed_{weights}"] = scores["missed"]
    return row


def summarise(rows: list[dict[str, Any]], arms: tuple[str, ...], seeds: int) -> dict[str, Any]:
    """Mean and sd over seeds of every arm, the paired differences the claim is about, and the verdict."""
    done = {arm: sorted((r for r in rows if r["arm"] == arm), key=lambda r: r["seed"]) for arm in arms}
    dice = {arm: [r["dice_best"] for r in runs] for arm, runs in done.items()}
    result: dict[str, Any] = {
        "claim": "bcp",
        "seeds": seeds,
        "labelled_patients": LABELLED,
        "hardware": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "arms": {
            arm: {
                "dice": [round(v, 4) for v in values],
                "mean": round(float(np.mean(values)), 4),
                "sd": round(float(np.std(values, ddof=1)), 4) if seeds > 1 else None,
                "last": round(float(np.mean([r["dice_last"] for r in done[arm]])), 4),
                "missed": sum(r["missed_best"] for r in done[arm]),
                "seconds": round(float(np.mean([r["seconds"] for r in done[arm]])), 1),
            }
            for arm, values in dice.items()
        },
    }
    result["verdict"] = verdict(dice, seeds)
    return result


def verdict(dice: dict[str, list[float]], seeds: int) -> str:
    """The two steps of the claim, each judged by its paired differences over seeds."""
    steps = [("bcp", "self_training"), ("self_training", "labelled_only"), ("bcp", "labelled_only")]
    parts = []
    for better, worse in steps:
        if better in dice and worse in dice:
            difference = np.subtract(dice[better], dice[worse])
            parts.append(f"{better} over {worse}: {judge(difference)} ({difference.mean():+.3f} Dice)")
    return "; ".join(parts) + f"; {seeds} seed{'s' if seeds > 1 else ''}, generated images, not evidence about patients"


def judge(difference: np.ndarray) -> str:
    """In words. The direction holds if its mean exceeds two standard errors; one seed says nothing."""
    n = len(difference)
    if n < 2:
        return "one seed, no judgement"
    error = 2 * difference.std(ddof=1) / np.sqrt(n)
    if difference.mean() > error:
        return "the direction holds"
    return "does not hold here" if difference.mean() < -error else "within noise"


def table(result: dict[str, Any]) -> str:
    """The arms as a markdown table."""
    lines = ["| arm | test Dice | sd | last checkpoint | missed | s |", "|---|---|---|---|---|---|"]
    for arm, a in result["arms"].items():
        sd = "" if a["sd"] is None else f"{a['sd']:.3f}"
        lines.append(f"| {arm} | {a['mean']:.3f} | {sd} | {a['last']:.3f} | {a['missed']} | {a['seconds']:.0f} |")
    return "\n".join(lines)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The finished runs so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
