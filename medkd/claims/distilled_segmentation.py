"""A segmentation teacher to a student a tenth its size, on the hippocampus task: what each loss adds to the labels.

Every student of a seed starts from the same parameters, sees the same patches and makes as many updates; the teacher of
a seed is trained once, as long as they are, and taught by the same labels. All 182 training scans are labelled. Weights
of losses are those of the papers or of public code (the cards), not tuned here; where one depends on the size of a
feature map it is said how it was carried over. The checkpoint is chosen on the validation scans.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from medkd.claims.accounting import PLACEHOLDER
from medkd.claims.bcp_hippocampus import CLASSES, PATIENTS
from medkd.claims.experiment import Aim, Experiment
from medkd.claims.runner import Run
from medkd.config.load import parse_recipe
from medkd.config.recipe import Recipe
from medkd.data.dataset import read_dataset
from medkd.errors import InputError

STEPS, VALIDATE_EVERY = 500, 125
WITHIN = 0.01  # Dice: how far below its teacher a student may be
UNET = {"kind": "BasicUNet", "norm": "instance", "dropout": [0.0]}
TEACHER = UNET | {"features": [12, 24, 48, 96, 96]}
STUDENT = UNET | {"features": [4, 8, 16, 28, 28]}

_AT_LEVELS = ("down_1", "down_2", "down_3")  # the stages after the stem, but the last one's 12 positions
_TENTH = "a tenth of that weight, added after the arms above were scored; no other was tried"
_MGD = {"kind": "mgd", "student": "down_2", "teacher": "down_2", "ratio": 0.75, "weight": 2e-5 * 48 * (8 * 12 * 8)}


def _distil(*losses: dict[str, Any]) -> dict[str, Any]:
    return {"kind": "distil", "losses": list(losses), "dry_size": 32}


def _attention(weight: float) -> dict[str, Any]:
    return _distil(*[{"kind": "attention_transfer", "weight": weight, "student": p, "teacher": p} for p in _AT_LEVELS])


ARMS: dict[str, tuple[str, dict[str, Any]]] = {
    "teacher": ("the labels alone, 11 times as many parameters", {"kind": "supervised"}),
    "alone": ("the student, the labels alone", {"kind": "supervised"}),
    "kd": ("Hinton, weight 1, T = 2", _distil({"kind": "kd", "weight": 1.0, "temperature": 2.0})),
    "cwd": ("channel-wise on the logits, weight 5, T = 1", _distil({"kind": "cwd"})),
    "bpkd": ("border and body, `stable`, weights 3 and 3, border of 3 voxels", _distil({"kind": "bpkd", "kernel": 3})),
    "ofa": (
        "OFA-style: dense exits at the five encoder levels, all weights 1",
        {"kind": "ofa", "classes": len(CLASSES)},
    ),
    "attention_transfer": (f"weight 1000 each at {', '.join(_AT_LEVELS)}", _attention(1000.0)),
    "mgd": ("at down_2, 3/4 masked, weight 2e-5 C H W D", _distil(_MGD)),
    "cwd_tenth": (_TENTH, _distil({"kind": "cwd", "weight": 0.5})),
    "bpkd_tenth": (_TENTH, _distil({"kind": "bpkd", "kernel": 3, "weight": 0.1})),
    "attention_transfer_tenth": (_TENTH, _attention(100.0)),
}
"""Arm -> what it is, and its method. Losses come on top of the task's loss on the labels, Dice and cross-entropy."""
TAUGHT = tuple(arm for arm in ARMS if arm not in ("teacher", "alone"))

SETTING = (
    "Data: the hippocampus task of the Medical Segmentation Decathlon (35 x 50 x 36 mm, 1 mm voxels), patches of "
    "32 x 48 x 32, 4 an update, light augmentation, AdamW at 0.001 with a polynomial decay, bfloat16 in channels-last "
    "order. Networks: U-Nets of five levels with instance normalisation, "
    f"{', '.join(map(str, TEACHER['features']))} and {', '.join(map(str, STUDENT['features']))} features. The teacher "
    "is trained as long as a student is and then frozen. Weights of the losses are those of the papers or of public "
    "code, none was tuned here: MGD's is carried over to the size of this feature map, attention maps are compared at "
    "stages of a size like the published ones, and the border of BPKD is narrower than the published 7 because the "
    "structures are about 15 voxels wide. At these weights CWD, BPKD and attention transfer were below the student "
    "alone on every seed, and a run of each lost nearly all of the anterior part: a tenth of the weight was then tried "
    "for the three, once. Nothing else was chosen on the test scans."
)


def distilled_segmentation(data: Path | None, seeds: int) -> Experiment:
    """The experiment on a dataset folder of the hippocampus task (data_prep/hippocampus.py --labelled 182)."""
    labelled = PATIENTS["train"]
    how = f"prepare it with data_prep/hippocampus.py --labelled {labelled} --seed 0"
    if data is None:
        raise InputError(f"distilled-segmentation needs --data DATASET, the hippocampus task; {how}")
    dataset = read_dataset(data)
    cases = {split: len(dataset.select(split)) for split in PATIENTS}
    found = len(dataset.select("train", labelled=True))
    if (dataset.classes, cases, found) != (CLASSES, PATIENTS, labelled):
        raise InputError(
            f"the experiment needs {PATIENTS} scans with {labelled} labelled and the classes {', '.join(CLASSES)}; "
            f"{dataset.root} has {cases} with {found} and {', '.join(dataset.classes)}; {how}"
        )
    return Experiment(
        claim="distilled-segmentation",
        name="distilled_segmentation",
        title="A student a tenth the size of its teacher: hippocampus",
        words={name: words for name, (words, _) in ARMS.items()},
        plan=tuple(Run(arm, seed) for seed in range(seeds) for arm in ARMS),
        budget=str(STEPS),
        stages="every arm, the teacher too",
        labelled=labelled,
        dataset=lambda run, work: dataset.root,
        recipe=lambda run, path: distilled_recipe(run.arm, path, run.seed, STEPS),
        taught_by=lambda run: Run("teacher", run.seed) if run.arm in TAUGHT else None,
        comparisons=tuple((arm, "alone") for arm in TAUGHT),
        caveat="one small task and a short training",
        source=dataset.fingerprint,
        command=f"medkd reproduce distilled-segmentation --data DATASET --seeds {seeds}",
        credit="Medical Segmentation Decathlon, Task04, CC BY-SA 4.0",
        aims=tuple(Aim(arm, -WITHIN, "teacher") for arm in ("alone", *TAUGHT)),
        setting=SETTING,
        costed=True,
    )


def distilled_recipe(arm: str, data: Path, seed: int, steps: int) -> Recipe:
    """The recipe of an arm. Those that are taught name no model folder yet: the runner puts in that of their seed."""
    tree: dict[str, Any] = {
        "data": str(data),
        "seed": seed,
        "preprocess": {"dims": 3, "intensity": {"kind": "zscore"}, "patch": [32, 48, 32]},
        "network": TEACHER if arm == "teacher" else STUDENT,
        "loss": {"dice": "sample_linear"},
        "labelled": {"size": 4, "augment": {"preset": "light"}},
        "runtime": {"precision": "bf16", "channels_last": True},
        "phases": [
            {"name": "training", "method": ARMS[arm][1], "steps": steps, "validate_every": VALIDATE_EVERY,
             "optimizer": {"kind": "adamw", "lr": 0.001, "schedule": {"kind": "poly"}}},
        ],
    }  # fmt: skip
    if arm in TAUGHT:
        tree["teacher"] = PLACEHOLDER
    return parse_recipe(copy.deepcopy(tree))
