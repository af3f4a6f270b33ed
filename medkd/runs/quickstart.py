"""The quickstart: generated patients to a segmentation of a new scan, with and without the unlabelled scans."""

from __future__ import annotations

import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from medkd.data.dataset import read_dataset
from medkd.data.phantom import PhantomOptions, write_cohort
from medkd.errors import InputError
from medkd.runs.evaluate import evaluate
from medkd.runs.phantom import SIZE, phantom_recipe
from medkd.runs.predict import predict
from medkd.runs.prepare import prepare
from medkd.runs.quickstart_report import write_quickstart_report
from medkd.runs.train import train

ARMS = ("labelled_only", "bcp")
LABELLED = 2


def quickstart(out: Path, *, seed: int = 0, overwrite: bool = False, console: Console | None = None) -> dict[str, Any]:
    """Write OUT/{cohort,dataset,labelled_only,bcp,predicted}, report.html and summary.json; return the summary.

    The cohort is a phantom whose labelled patients come from a narrower range than the rest (card bcp.md 7.3). Test
    patients are read once, at the end; the checkpoints are chosen on validation patients.
    """
    if out.exists() and any(out.iterdir()):
        if not overwrite:
            raise InputError(f"{out} already holds files; give another --out, or replace it with --overwrite")
        if not (out / "cohort").is_dir():
            raise InputError(f"{out} is not a quickstart, so --overwrite does not delete it; give another --out")
        shutil.rmtree(out)
    started = time.perf_counter()
    say = console.print if console else lambda *_: None

    say("1. a cohort of generated patients, as NIfTI")
    write_cohort(out / "cohort", PhantomOptions(labelled=LABELLED, seed=seed, size=SIZE))
    say("2. medkd prepare: checks it and writes the dataset folder")
    dataset = prepare(
        out / "cohort", out / "dataset", table=out / "cohort" / "cases.csv",
        classes=("background", "rv", "myo", "lv"), channels=("mr",),
    )  # fmt: skip
    evaluations = {}
    for arm in ARMS:
        say(f"3. medkd train and medkd evaluate: {arm}")
        train(phantom_recipe(arm, out / "dataset", seed), out / arm, console=console)
        evaluations[arm] = evaluate(out / arm, out / "dataset", "test")
    say("4. medkd predict: a mask for a scan nobody labelled")
    scan = read_dataset(out / "dataset").select("test")[0].images[0]
    predicted = predict(out / "bcp", scan, out / "predicted").written[0]

    dice = {arm: e.summary["mean_over_classes"]["metrics"]["dice"]["mean"] for arm, e in evaluations.items()}
    summary = {
        "dice": dice,
        "seconds": round(time.perf_counter() - started, 1),
        "seed": seed,
        "labelled_patients": LABELLED,
        "test_patients": len({case.patient for case in dataset.select("test")}),
        "hardware": {"threads": torch.get_num_threads(), "device": "cuda" if torch.cuda.is_available() else "cpu"},
        "versions": {name: version(name) for name in ("medkd", "torch", "monai", "numpy")},
    }
    write_quickstart_report(out, dataset, evaluations, summary, scan, predicted)
    summary["seconds"] = round(time.perf_counter() - started, 1)
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    return summary
