"""What a scan costs the model of every arm: measured in one place, when all runs are there, the arms in turn."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch

from medkd.claims.accounting import machine
from medkd.claims.experiment import Experiment
from medkd.claims.runner import Run, run_folder
from medkd.config.models import load_model
from medkd.data.dataset import read_dataset, write_whole
from medkd.imaging.nifti import read_nifti
from medkd.inference.segment import segment

SCANS = 12  # test scans, spread over the list; the first only warms up


def cost_file(folder: Path) -> Path:
    return folder / "scan_cost.json"


def read_cost(experiment: Experiment, folder: Path) -> dict[str, Any]:
    """What was measured for this budget; empty if nothing was."""
    path = cost_file(folder)
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found if found.get("budget") == experiment.budget else {}


def measure(experiment: Experiment, folder: Path) -> bool:
    """Write FOLDER/scan_cost.json from the models of seed 0; False where one is missing.

    CPU seconds from the scan in memory to its mask, preprocessing and windows included, in float32 as `medkd predict`
    does it: the median over scans. All arms take a scan before the next one comes, so a busy machine slows all alike.
    """
    folders = {arm: run_folder(experiment, Run(arm, 0), folder / "work") for arm in experiment.arms}
    if not all((run / "model" / "model.yaml").exists() for run in folders.values()):
        return False
    models = {arm: load_model(run) for arm, run in folders.items()}
    cases = read_dataset(experiment.dataset(Run(experiment.arms[0], 0), folder / "work")).select("test")
    seconds: dict[str, list[float]] = {arm: [] for arm in models}
    for number, case in enumerate(cases[:: max(1, len(cases) // SCANS)][:SCANS]):
        scans = [read_nifti(path) for path in case.images]
        for arm, model in models.items():
            started = time.process_time()
            segment(model, scans, torch.device("cpu"))
            if number:
                seconds[arm].append(time.process_time() - started)
    found = {
        "budget": experiment.budget,
        "scans": len(next(iter(seconds.values()))),
        "seconds": {arm: round(median(values), 4) for arm, values in seconds.items()},
        "range": {arm: [round(min(values), 4), round(max(values), 4)] for arm, values in seconds.items()},
        "load": round(os.getloadavg()[0], 2),
        **machine(),
    }
    write_whole(cost_file(folder), json.dumps(found, indent=1) + "\n")
    return True
