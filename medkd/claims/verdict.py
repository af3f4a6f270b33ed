"""What the finished runs of an experiment say: means, paired differences, a verdict in words (it may be a refusal)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from medkd.claims.experiment import Experiment
from medkd.claims.runner import Line


def summarise(experiment: Experiment, lines: Sequence[Line]) -> dict[str, Any]:
    """Mean and sd over the finished seeds of every arm, the runs still missing, and the verdict."""
    done: dict[str, dict[int, Line]] = {arm: {} for arm in experiment.arms}
    for line in lines:
        done[line["arm"]][line["seed"]] = line
    machine = ("processor", "cores", "threads", "torch", "medkd")
    return {
        "claim": experiment.claim,
        "experiment": experiment.name,
        "command": experiment.command,
        "seeds": experiment.seeds,
        "budget": experiment.budget,
        "labelled_patients": experiment.labelled,
        "hardware": {key: sorted({str(line[key]) for line in lines if key in line}) for key in machine},
        "arms": {arm: _arm(runs) for arm, runs in done.items() if runs},
        "missing": [str(run) for run in experiment.plan if run.seed not in done[run.arm]],
        "differences": differences(experiment, done),
        "verdict": verdict(experiment, done),
    }


def _arm(runs: dict[int, Line]) -> dict[str, Any]:
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


def differences(experiment: Experiment, done: Mapping[str, Mapping[int, Line]]) -> list[dict[str, Any]]:
    """Better minus worse of every comparison, by the seeds that both arms have finished: of the checkpoint chosen on
    validation patients, by which the claim is judged, and beside it of the last one."""
    rows = []
    for better, worse in experiment.comparisons:
        more, less = done.get(better, {}), done.get(worse, {})  # an experiment may leave arms out
        seeds = sorted(more.keys() & less.keys())
        best, last = ([round(more[s][key] - less[s][key], 4) for s in seeds] for key in ("dice_best", "dice_last"))
        if seeds:
            row = {"better": better, "worse": worse, "by_seed": best, "words": judge(np.array(best))}
            rows.append(row | {"last": last, "last_words": judge(np.array(last))})
    return rows


def verdict(experiment: Experiment, done: Mapping[str, Mapping[int, Line]]) -> str:
    """The steps of the claim, each judged by its paired differences."""
    parts = [
        f"{row['better']} over {row['worse']}: {row['words']} ({np.mean(row['by_seed']):+.3f} Dice, "
        f"{len(row['by_seed'])} seeds)"
        for row in differences(experiment, done)
    ]
    return "; ".join([*(parts or ["nothing to judge yet"]), experiment.caveat])


RULE = "A direction holds if the mean exceeds two standard errors; fewer than three seeds are not judged."


def judge(difference: np.ndarray) -> str:
    """In words, by the RULE."""
    n = len(difference)
    if n < 3:
        return f"{'one seed' if n == 1 else 'two seeds'}, no judgement"
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
