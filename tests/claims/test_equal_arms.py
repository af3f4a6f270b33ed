"""The arms of the ACDC experiment on real streams: which labelled samples they read, and how many images they see."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from medkd.claims.accounting import images_per_update
from medkd.claims.bcp_acdc import ARMS, acdc_recipe
from medkd.config.load import parse_recipe
from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.engine.fit import PhaseRun
from medkd.engine.runtime import Runtime
from medkd.engine.tracking import Tracker
from medkd.runs.prepare import prepare
from medkd.runs.tasks.protocol import Setup
from medkd.runs.train import build

DRAWN_OTHERWISE = {"labelled_strong", "labelled_strong_7", "labelled_strong_long", "mean_teacher"}
"""Foreground sampling, or six labelled images an update."""


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("arms")
    write_cohort(folder / "cohort", PhantomOptions(labelled=3, unlabelled=3, validation=1, test=1, size=32))
    prepare(folder / "cohort", folder / "data", table=folder / "cohort/cases.csv", classes=CLASSES)
    return folder / "data"


def setup(arm: str, data: Path) -> Setup:
    """The arm at 32 pixels and width 4."""
    recipe = acdc_recipe(arm, data, 0).model_dump(mode="json")
    recipe["preprocess"] |= {"size": [32, 32], "patch": [32, 32]}
    recipe["network"] |= {"features": [4] * 5}
    recipe["runtime"] |= {"device": "cpu", "precision": "fp32"}
    return build(parse_recipe(recipe))


@pytest.mark.parametrize("arm", ARMS)
def test_arms_with_one_labelled_stream_read_the_same_samples(arm: str, data: Path) -> None:
    mine, reference = setup(arm, data), setup("labelled_only", data).phases[0].streams["labelled"]
    asked = [(mine.phases[0], 0), (mine.phases[0], 299), (mine.phases[-1], 300), (mine.phases[-1], 1400)]
    same = []
    for phase, step in asked:
        batch, other = phase.streams["labelled"].batch(step), reference.batch(step)
        same.append(batch.case_ids == other.case_ids)
        if "faithful" not in arm and same[-1]:  # the published arms prepare and augment otherwise
            assert torch.equal(batch.image, other.image)
            assert torch.equal(batch.labels, other.labels)
    assert all(same) if arm not in DRAWN_OTHERWISE else not any(same)


@pytest.mark.parametrize("arm", ARMS)
def test_the_networks_see_as_many_images_as_the_accounting_says(arm: str, data: Path) -> None:
    made = setup(arm, data)
    for phase, options in zip(made.phases, made.recipe.phases):
        run = PhaseRun(phase, made.network, made.task, Runtime(torch.device("cpu")), 0, Tracker(), {}, {}, 0)
        run.train_one()
        seen: Counter[str] = Counter()

        def count(name: str, seen: Counter[str] = seen):  # type: ignore[no-untyped-def]
            return lambda module, given: seen.update({name: len(given[0])})

        student = run.method.student
        student.register_forward_pre_hook(count("student"))
        for module in run.method.modules():
            if type(module) is type(student) and module is not student:
                module.register_forward_pre_hook(count("teacher"))
        run.train_one()
        sizes = {name: stream.size for name, stream in made.recipe.streams().items()}
        expected = images_per_update(options, sizes["labelled"], sizes["unlabelled"])
        assert (seen["student"], seen["teacher"]) == expected
