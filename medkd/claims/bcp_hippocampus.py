"""BCP in 3-D: the hippocampus task of the Medical Segmentation Decathlon, 9 labelled scans, millimetres known."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from medkd.claims.experiment import Experiment
from medkd.claims.runner import Run
from medkd.config.load import parse_recipe
from medkd.config.recipe import Recipe
from medkd.data.dataset import Dataset
from medkd.errors import InputError

CLASSES = ("background", "anterior", "posterior")
PATIENTS = {"train": 182, "val": 26, "test": 52}
LABELLED = 9
PRETRAIN, SELFTRAIN = 300, 900

_LIGHT = {"preset": "light"}
_ADAM = {"kind": "adamw", "lr": 0.001}
_POLY = _ADAM | {"schedule": {"kind": "poly"}}

RECOMMENDED: dict[str, Any] = {
    "preprocess": {"dims": 3, "intensity": {"kind": "zscore"}, "patch": [32, 48, 32]},
    "network": {"kind": "BasicUNet", "features": [8, 16, 32, 64, 64], "norm": "instance", "dropout": [0.0]},
    "loss": {"dice": "sample_linear"},
    "labelled": {"size": 4, "augment": _LIGHT},
    "unlabelled": {"size": 4, "augment": _LIGHT},
    "runtime": {"precision": "bf16", "channels_last": True},
}

_STAGE_1 = {"kind": "labelled_copy_paste", "regional": False, "both_directions": True}
ARMS: dict[str, tuple[str, tuple[dict[str, Any], ...]]] = {
    "self_training": (
        "BCP's stage 1, then pseudo-labels on whole images",
        (_STAGE_1, {"kind": "self_training", "dice": "sample_linear"}),
    ),
    "bcp": ("BCP, recommended preset", (_STAGE_1, {"kind": "bcp", "dice": "sample_linear"})),
    "labelled_strong": (
        "labelled scans only, nnU-Net's augmentation, foreground sampling, averaged weights",
        ({"kind": "supervised", "average": 0.99},),
    ),
}
"""Arm -> what it is, and its methods: one for the whole length, or one a stage."""
COMPARISONS = (("bcp", "labelled_strong"), ("bcp", "self_training"), ("self_training", "labelled_strong"))


def hippocampus(dataset: Dataset, seeds: int) -> Experiment:
    """The experiment on a dataset folder of the task (data_prep/hippocampus.py). Raises InputError for another."""
    patients = {split: len({c.patient for c in dataset.select(split)}) for split in PATIENTS}
    labelled = len({c.patient for c in dataset.select("train", labelled=True)})
    if patients != PATIENTS or labelled != LABELLED:
        raise InputError(
            f"the experiment needs {PATIENTS} scans with {LABELLED} labelled, {dataset.root} has {patients} with "
            f"{labelled}; prepare it with data_prep/hippocampus.py --labelled {LABELLED} --seed 0"
        )
    return Experiment(
        claim="bcp",
        name="bcp_hippocampus",
        title="BCP in 3-D: hippocampus, 9 labelled scans",
        words={name: words for name, (words, _) in ARMS.items()},
        plan=tuple(Run(arm, seed) for seed in range(seeds) for arm in ARMS),
        budget=f"{PRETRAIN}+{SELFTRAIN}",
        labelled=LABELLED,
        dataset=lambda run, work: dataset.root,
        recipe=lambda run, path: hippocampus_recipe(run.arm, path, run.seed),
        comparisons=COMPARISONS,
        caveat="a small network and a short training",
        source=dataset.fingerprint,
        command=f"medkd reproduce bcp --data DATASET --seeds {seeds}",
        credit="Medical Segmentation Decathlon, Task04, CC BY-SA 4.0",
        watched=lambda run: run.seed == 0 and run.arm != "labelled_strong",
        pictured=lambda run: run == Run("bcp", 0),
    )


def hippocampus_recipe(arm: str, data: Path, seed: int, pretrain: int = PRETRAIN, selftrain: int = SELFTRAIN) -> Recipe:
    """The recipe of an arm. `bcp` with seed 0 is configs/segmentation/bcp_3d_small.yaml."""
    methods = ARMS[arm][1]
    two = len(methods) == 2
    lengths, rates = ((pretrain, selftrain), (_ADAM, _POLY)) if two else ((pretrain + selftrain,), (_POLY,))
    phases = [
        {"name": name, "method": method, "steps": steps, "optimizer": rate}
        for name, method, steps, rate in zip(
            ("pretrain", "selftrain") if two else ("training",), methods, lengths, rates
        )
    ]
    tree = RECOMMENDED | {"data": str(data), "seed": seed, "phases": phases}
    if arm == "labelled_strong":
        tree["labelled"] = {"size": 4, "augment": {"preset": "strong"}, "foreground": 0.33}
        phases[0]["candidate"] = "average"
    return parse_recipe(copy.deepcopy(tree))
