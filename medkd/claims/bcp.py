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
    return summarise(read_lines(lines), seeds, budget)


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


def summarise(rows: list[dict[str, Any]], seeds: int, budget: str) -> dict[str, Any]:
    """Mean and sd over the finished seeds of every arm, the runs still missing, and the verdict."""
    done: dict[str, dict[int, dict[str, Any]]] = {arm: {} for arm in ARMS}
    for row in rows:
        if row["budget"] == budget and row["seed"] < seeds and row["arm"] in done:
            done[row["arm"]][row["seed"]] = row
    return {
        "claim": "bcp",
        "seeds": seeds,
        "budget": budget,
        "labelled_patients": LABELLED,
        "hardware": {"processor": platform.machine(), "threads": torch.get_num_threads(), "torch": torch.__version__},
        "arms": {arm: _arm(runs) for arm, runs in done.items() if runs},
        "missing": [f"{arm} seed {seed}" for arm, runs in done.items() for seed in range(seeds) if seed not in runs],
        "verdict": verdict({arm: {s: r["dice_best"] for s, r in runs.items()} for arm, runs in done.items()}),
    }


def _arm(runs: dict[int, dict[str, Any]]) -> dict[str, Any]:
    ordered = [runs[seed] for seed in sorted(runs)]
    dice = [run["dice_best"] for run in ordered]
    return {
        "seeds": sorted(runs),
        "dice": [round(v, 4) for v in dice],
        "mean": round(float(np.mean(dice)), 4),
        "sd": round(float(np.std(dice, ddof=1)), 4) if len(dice) > 1 else None,
        "last": round(float(np.mean([run["dice_last"] for run in ordered])), 4),
        "missed": sum(run["missed_best"] for run in ordered),
        "seconds": round(float(np.mean([run["seconds"] for run in ordered])), 1),
    }


def verdict(dice: dict[str, dict[int, float]]) -> str:
    """The steps of the claim, each judged by its paired differences over the seeds that both arms have."""
    parts = []
    for better, worse in (("bcp", "self_training"), ("self_training", "labelled_only"), ("bcp", "labelled_only")):
        seeds = sorted(dice.get(better, {}).keys() & dice.get(worse, {}).keys())
        if seeds:
            difference = np.array([dice[better][s] - dice[worse][s] for s in seeds])
            words = f"{judge(difference)} ({difference.mean():+.3f} Dice, {len(seeds)} seeds)"
            parts.append(f"{better} over {worse}: {words}")
    return "; ".join([*parts, "generated images, not evidence about patients"])


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
    lines = ["| arm | seeds | test Dice | sd | last checkpoint | missed | s |", "|---|---|---|---|---|---|---|"]
    for arm, a in result["arms"].items():
        values = f"{a['mean']:.3f} | {'' if a['sd'] is None else format(a['sd'], '.3f')} | {a['last']:.3f}"
        lines.append(f"| {arm} | {len(a['seeds'])} | {values} | {a['missed']} | {a['seconds']:.0f} |")
    missing = f"\n\nStill missing: {', '.join(result['missing'])}." if result["missing"] else ""
    return "\n".join(lines) + missing


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The finished runs so far."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
