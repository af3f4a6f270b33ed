"""The arms of the phantom experiment (card bcp.md 7.3): one recipe each, alike in everything but the method.

Every arm starts from the same weights, makes the same number of student updates and reads the same stream of labelled
samples; the checkpoint is chosen on the validation patients. The quickstart runs two of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medkd.config.load import parse_recipe
from medkd.config.recipe import Recipe

SIZE = 64
PRETRAIN, SELFTRAIN = 200, 600
BATCH = 8

_BCP = {"kind": "bcp", "preset": "recommended"}
_SELF = {"kind": "self_training"}
_STAGE_1 = {"kind": "labelled_copy_paste"}

ARMS: dict[str, list[dict[str, Any]]] = {
    "labelled_only": [{"kind": "supervised"}],
    "labelled_strong": [{"kind": "supervised", "average": 0.99}],
    "labelled_copy_paste": [_STAGE_1],
    "self_training": [_STAGE_1, _SELF],
    "mean_teacher": [{"kind": "mean_teacher"}],
    "bcp": [_STAGE_1, _BCP],
    "bcp_no_components": [_STAGE_1, _BCP | {"components": False}],
}
"""Arm -> its methods: one for the whole length, or one a stage."""


def phantom_recipe(arm: str, data: Path, seed: int, pretrain: int = PRETRAIN, selftrain: int = SELFTRAIN) -> Recipe:
    """The recipe of an arm on a generated cohort."""
    methods = ARMS[arm]
    steps = [pretrain + selftrain] if len(methods) == 1 else [pretrain, selftrain]
    strong = arm == "labelled_strong"
    candidate = "average" if strong else "student"
    augment = {"preset": "strong" if strong else "light"}
    stream = {"size": BATCH, "augment": augment}
    schedule = {"kind": "poly"}
    return parse_recipe(
        {
            "data": str(data),
            "seed": seed,
            "preprocess": {"dims": 2, "size": [SIZE, SIZE], "patch": [SIZE, SIZE]},
            "network": {"kind": "BasicUNet", "features": [8, 16, 32, 64, 128], "norm": "instance", "dropout": [0.0]},
            "labelled": stream | ({"foreground": 0.33} if strong else {}),
            "unlabelled": stream,
            "phases": [
                {
                    "name": f"stage {number + 1}" if len(methods) > 1 else "training",
                    "method": method,
                    "steps": n,
                    "candidate": candidate,
                    "optimizer": {"kind": "adamw", "lr": 0.001, "schedule": schedule},
                    "validate_every": 50,
                }
                for number, (method, n) in enumerate(zip(methods, steps))
            ],
        }
    )
