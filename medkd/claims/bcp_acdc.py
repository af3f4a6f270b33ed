"""BCP on real hearts: ACDC, 3 labelled patients (card bcp.md 7.2). Arms differ in what they are named for alone.

Every arm of a seed starts from the same parameters and makes the same number of updates on 12 student images each;
images_per_update says how, and the page prints the sums. The published pipeline pastes one way in stage 1, so its two
arms see half as many there. The two `_long` arms fill half an hour of one core and differ from their short ones in
length alone; they were planned when the short ones had been scored, and no other length was tried. All train in
bfloat16 and channels-last order, which is faster here. The checkpoint is chosen on the validation patients.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from medkd.claims.experiment import Aim, Experiment
from medkd.claims.relabel import relabelled
from medkd.claims.runner import Run
from medkd.config.load import parse_recipe
from medkd.config.recipe import Recipe
from medkd.data.dataset import Dataset
from medkd.errors import InputError

CLASSES = ("background", "rv", "myo", "lv")
PATIENTS = {"train": 70, "val": 10, "test": 20}
LABELLED = 3
PRETRAIN, SELFTRAIN, LONG = 300, 1200, 3700

_FAST = {"precision": "bf16", "channels_last": True}
_LIGHT = {"preset": "light"}
_ADAM = {"kind": "adamw", "lr": 0.001}
_POLY = _ADAM | {"schedule": {"kind": "poly"}}
_SGD = {"kind": "sgd", "lr": 0.01, "momentum": 0.9, "weight_decay": 1.0e-4}

RECOMMENDED: dict[str, Any] = {
    "preprocess": {
        "dims": 2, "intensity": {"kind": "percentile", "percentiles": [0, 99]}, "size": [96, 96], "patch": [96, 96],
    },
    "network": {"kind": "BasicUNet", "features": [12, 24, 48, 96, 192], "norm": "instance", "dropout": [0.0]},
    "labelled": {"size": 12, "augment": _LIGHT},
    "unlabelled": {"size": 12, "augment": _LIGHT},
    "runtime": _FAST,
}  # fmt: skip
PUBLISHED: dict[str, Any] = {
    "preprocess": {
        "dims": 2, "intensity": {"kind": "minmax"}, "size": [96, 96], "patch": [96, 96], "interpolation": "nearest",
    },
    "network": RECOMMENDED["network"] | {"norm": "batch", "dropout": [0.05, 0.1, 0.2, 0.3, 0.5]},
    "labelled": {"size": 12, "augment": {"preset": "bcp"}},
    "unlabelled": {"size": 12, "augment": {"preset": "bcp"}},
    "runtime": _FAST,
}  # fmt: skip
"""The published 2-D pipeline at this experiment's image size, width and length (configs/.../bcp_faithful_2d.yaml)."""

_STAGE_1 = {"kind": "labelled_copy_paste", "both_directions": True}
_STAGE_1_PUBLISHED = {"kind": "labelled_copy_paste", "inclusive_end": False}
_BCP = {"kind": "bcp", "preset": "recommended"}
_FAITHFUL = {"kind": "bcp", "preset": "faithful_2d"}
_STRONG = {"size": 12, "augment": {"preset": "strong"}, "foreground": 0.33}
_SIX = {"labelled": {"size": 6, "augment": _LIGHT}, "unlabelled": {"size": 6, "augment": _LIGHT}}
_NO_BOX = {"beta": 0}


@dataclass(frozen=True)
class Arm:
    """methods: one for the whole length, or one a stage. changes: recipe keys that are not the recommended ones.
    selftrain: updates of stage 2; an arm of one stage makes those of both.
    """

    words: str
    methods: tuple[dict[str, Any], ...]
    changes: dict[str, Any] = field(default_factory=dict)
    labelled: int = LABELLED
    candidate: str = "student"
    selftrain: int = SELFTRAIN


ARMS: dict[str, Arm] = {
    "labelled_only": Arm("labelled patients only, light augmentation", ({"kind": "supervised"},)),
    "self_training": Arm(
        "BCP's stage 1, then pseudo-labels on whole images", (_STAGE_1, {"kind": "self_training"})
    ),
    "bcp": Arm("BCP, recommended preset", (_STAGE_1, _BCP)),
    "bcp_twin": Arm("its twin: box side 0 in both stages, all else equal", (_STAGE_1 | _NO_BOX, _BCP | _NO_BOX)),
    "labelled_strong": Arm(
        "labelled patients only, nnU-Net's augmentation, foreground sampling, averaged weights",
        ({"kind": "supervised", "average": 0.99},), {"labelled": _STRONG}, candidate="average",
    ),
    "labelled_copy_paste": Arm("BCP's stage 1 for the whole length", (_STAGE_1,)),
    "mean_teacher": Arm("Mean Teacher, 6 labelled and 6 unlabelled images", ({"kind": "mean_teacher"},), _SIX),
    "bcp_faithful": Arm(
        "BCP, the published pipeline, which pastes one way in stage 1 (half the images there)",
        (_STAGE_1_PUBLISHED, _FAITHFUL), PUBLISHED,
    ),
    "bcp_faithful_twin": Arm(
        "its twin: box side 0 in both stages, all else equal",
        (_STAGE_1_PUBLISHED | _NO_BOX, _FAITHFUL | _NO_BOX), PUBLISHED,
    ),
    "all_labelled": Arm("the ceiling: all 70 training patients labelled", ({"kind": "supervised"},), labelled=70),
    "labelled_strong_7": Arm(
        "labelled_strong with 7 patients",
        ({"kind": "supervised", "average": 0.99},), {"labelled": _STRONG}, labelled=7, candidate="average",
    ),
    "bcp_7": Arm("BCP, recommended preset, with 7 patients", (_STAGE_1, _BCP), labelled=7),
    "bcp_long": Arm(f"bcp for {PRETRAIN}+{LONG} updates", (_STAGE_1, _BCP), selftrain=LONG),
    "labelled_strong_long": Arm(
        f"labelled_strong for {PRETRAIN + LONG:,} updates",
        ({"kind": "supervised", "average": 0.99},), {"labelled": _STRONG}, candidate="average", selftrain=LONG,
    ),
}  # fmt: skip
"""In the order in which they are run: what tells most comes first."""
COMPARISONS = (
    ("bcp", "labelled_only"), ("bcp", "labelled_strong"), ("bcp", "bcp_twin"), ("bcp", "self_training"),
    ("self_training", "labelled_only"), ("bcp", "mean_teacher"), ("bcp", "bcp_faithful"),
    ("bcp_faithful", "bcp_faithful_twin"), ("bcp_7", "labelled_strong_7"),
    ("bcp_long", "labelled_strong_long"), ("bcp_long", "bcp"),
)  # fmt: skip


def acdc(dataset: Dataset, seeds: int) -> Experiment:
    """The experiment on a dataset folder of ACDC (data_prep/acdc.py --labelled 3). Raises InputError for another."""
    _check(dataset)

    def data(run: Run, work: Path) -> Path:
        labelled = ARMS[run.arm].labelled
        return dataset.root if labelled == LABELLED else relabelled(dataset, labelled, work / f"labelled_{labelled}")

    return Experiment(
        claim="bcp",
        name="bcp_acdc",
        title="BCP on real hearts: ACDC, 3 labelled patients",
        words={name: arm.words for name, arm in ARMS.items()},
        plan=tuple(Run(arm, seed) for seed in range(seeds) for arm in ARMS),
        budget=f"{PRETRAIN}+{SELFTRAIN}",
        labelled=LABELLED,
        dataset=data,
        recipe=lambda run, path: acdc_recipe(run.arm, path, run.seed),
        comparisons=COMPARISONS,
        caveat="small images, a small network and a short training: not the published setting",
        source=dataset.fingerprint,
        command=f"medkd reproduce bcp --data DATASET --seeds {seeds}",
        credit="ACDC, Bernard et al., IEEE TMI 2018, CC BY-NC-SA 4.0",
        shared=False,
        stages=f"stage 1 + stage 2; arms of one stage make their sum; the `_long` arms {PRETRAIN}+{LONG}, planned when "
        "the others had been scored",
        aims=(
            Aim("bcp", 0.75),
            Aim("bcp_long", 0.75, note="a second attempt, planned when bcp had been scored"),
            *(Aim("bcp", 0.15, over) for over in ("labelled_only", "labelled_strong", "bcp_twin")),
        ),
        watched=lambda run: run.seed == 0 and ARMS[run.arm].labelled == LABELLED and "unlabelled" in needs(run.arm),
        pictured=lambda run: run == Run("bcp", 0),
    )


def needs(arm: str) -> set[str]:
    """The data streams an arm reads."""
    return {need for phase in acdc_recipe(arm, Path("data"), 0).phases for need in phase.method.needs}


def acdc_recipe(arm: str, data: Path, seed: int) -> Recipe:
    """The recipe of an arm. `bcp` with seed 0 is configs/segmentation/bcp_acdc_3.yaml."""
    a = ARMS[arm]
    published = a.changes is PUBLISHED
    lengths = (PRETRAIN, a.selftrain) if len(a.methods) == 2 else (PRETRAIN + a.selftrain,)
    rates = [_SGD] * 2 if published else [_ADAM, _POLY][-len(lengths) :]
    names = ("pretrain", "selftrain") if len(lengths) == 2 else ("training",)
    phases = [
        {"name": name, "method": method, "steps": steps, "optimizer": rate}
        for name, method, steps, rate in zip(names, a.methods, lengths, rates)
    ]
    phases[-1] |= {"candidate": a.candidate, "carry_optimizer": published}
    return parse_recipe(copy.deepcopy(RECOMMENDED | a.changes | {"data": str(data), "seed": seed, "phases": phases}))


def _check(dataset: Dataset) -> None:
    patients = {split: len({c.patient for c in dataset.select(split)}) for split in PATIENTS}
    labelled = len({c.patient for c in dataset.select("train", labelled=True)})
    if patients != PATIENTS or labelled != LABELLED:
        raise InputError(
            f"the experiment needs ACDC's {PATIENTS} patients with {LABELLED} labelled, {dataset.root} has {patients} "
            f"with {labelled}; prepare it with data_prep/acdc.py --labelled {LABELLED}"
        )
