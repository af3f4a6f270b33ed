"""A phantom cohort of a few tiny patients as an experiment of two arms that takes seconds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from medkd.claims import bcp_phantom
from medkd.claims.experiment import Experiment
from medkd.claims.runner import Run
from medkd.data.phantom import PhantomOptions


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Experiment]:
    """tiny(): labelled_only and bcp, seed 0, on six patients of 64 pixels, 4 + 4 updates."""

    def small(**given: int) -> PhantomOptions:
        return PhantomOptions(**given, unlabelled=3, validation=1, test=1)  # type: ignore[arg-type]

    monkeypatch.setattr(bcp_phantom, "PhantomOptions", small)

    def make(arms: tuple[str, ...] = ("labelled_only", "bcp")) -> Experiment:
        experiment = bcp_phantom.phantom(1, 4, 4)
        return dataclasses.replace(
            experiment,
            plan=tuple(Run(arm, 0) for arm in arms),
            watched=lambda run: run.arm == "bcp",
            pictured=lambda run: run.arm == "bcp",
            comparisons=(("bcp", "labelled_only"),),
        )

    return make


@pytest.fixture
def line() -> Callable[..., dict[str, object]]:
    """line("bcp", 0, 0.8): what a finished run leaves, in short."""

    def make(arm: str, seed: int, dice: float, budget: str = "300+1200", **more: object) -> dict[str, object]:
        scores = {name: {"dice": dice, "hd95_max_voxel": 5.0} for name in ("rv", "myo", "lv", "mean")}
        return {
            "arm": arm, "seed": seed, "budget": budget, "seconds": 600.0, "cpu_seconds": 590.0, "sessions": 1,
            "dice_best": dice, "dice_last": dice - 0.01, "missed_best": 2, "missed_last": 3, "scores_best": scores,
            "student_images": 18000, "teacher_images": 14400,
            "candidate": "student", "start_weights": f"hash{seed}", "load": [1.0, 1.1], "threads": 1,
            "validation": [{"kind": "validation", "global_step": 100, "student/dice": dice}], **more,
        }  # fmt: skip

    return make
