"""BCP on generated patients (card bcp.md 7.3): every seed is another cohort. The arms stand in runs/phantom.py."""

from __future__ import annotations

import shutil
from pathlib import Path

from medkd.claims.experiment import Experiment
from medkd.claims.runner import Run
from medkd.config.recipe import Recipe
from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.runs.phantom import ARMS, PRETRAIN, SELFTRAIN, SIZE, phantom_recipe
from medkd.runs.prepare import prepare

LABELLED = 2
FIRST = ("labelled_only", "self_training", "bcp")  # what the claim is about
COMPARISONS = (("bcp", "self_training"), ("self_training", "labelled_only"), ("bcp", "labelled_only"))


def phantom(seeds: int, pretrain: int = PRETRAIN, selftrain: int = SELFTRAIN) -> Experiment:
    """The experiment: the arms of the claim on every seed, then the others."""

    def recipe(run: Run, data: Path) -> Recipe:
        return phantom_recipe(run.arm, data, run.seed, pretrain, selftrain)

    rest = [arm for arm in ARMS if arm not in FIRST]
    return Experiment(
        claim="bcp",
        name="bcp_phantom",
        title="BCP on generated patients",
        words={},
        plan=tuple(Run(arm, seed) for arms in (FIRST, rest) for seed in range(seeds) for arm in arms),
        budget=f"{pretrain}+{selftrain}",
        labelled=LABELLED,
        dataset=cohort,
        recipe=recipe,
        comparisons=COMPARISONS,
        caveat="generated images, not evidence about patients",
        source="generated",
        command=f"medkd reproduce bcp --seeds {seeds}",
    )


def cohort(run: Run, work: Path) -> Path:
    """A generated cohort and its dataset folder."""
    folder = work / f"cohort_{run.seed}"
    dataset = folder / "dataset"
    if not (dataset / "dataset.yaml").exists():
        shutil.rmtree(folder, ignore_errors=True)
        write_cohort(folder / "source", PhantomOptions(labelled=LABELLED, seed=run.seed, size=SIZE))
        prepare(folder / "source", dataset, table=folder / "source" / "cases.csv", classes=CLASSES)
    return dataset
