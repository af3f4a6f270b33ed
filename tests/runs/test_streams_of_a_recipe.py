"""Which patients each stream reads, and how batches split over processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from medkd.config.load import parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.engine.checkpoint import load_state
from medkd.engine.runtime import ONE_PROCESS, Runtime
from medkd.errors import InputError
from medkd.runs.checks import check_slices
from medkd.runs.prepare import prepare
from medkd.runs.streams import held_out_cases
from medkd.runs.train import build, train

TEACHER = {"name": "teach", "method": {"kind": "supervised"}, "steps": 2, "becomes": "teacher"}
DISTIL = {"name": "distil", "method": {"kind": "tgeo_kd", "classes": 4}, "steps": 2}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("streams")
    write_cohort(folder / "cohort", PhantomOptions(labelled=3, unlabelled=2, validation=1, test=1, size=32))
    prepare(folder / "cohort", folder / "data", table=folder / "cohort/cases.csv", classes=CLASSES)
    return folder / "data"


def recipe(data: Path, phases: list[dict[str, Any]], **values: Any) -> Recipe:
    preprocess = {"size": [32, 32], "patch": [32, 32]}
    network = {"kind": "BasicUNet", "features": [4, 4, 8, 8, 8], "norm": "instance"}
    return parse_recipe({"data": str(data), "preprocess": preprocess, "network": network, "phases": phases, **values})


def test_a_controller_reads_patients_that_nobody_trains_on_and_none_of_val_or_test(data: Path) -> None:
    setup = build(recipe(data, [TEACHER, DISTIL]))
    patients = {case.id: (case.patient, case.split) for case in setup.dataset.cases}

    def read(phase: int, stream: str) -> set[tuple[str, str]]:
        batches = [setup.phases[phase].streams[stream].batch(step) for step in range(12)]
        return {patients[name] for batch in batches for name in batch.case_ids}

    held_out, trained = read(1, "held_out"), read(1, "labelled")
    assert len(held_out) == 1
    assert len(trained) == 2
    assert held_out.isdisjoint(trained)
    assert {split for _, split in held_out | trained} == {"train"}
    assert read(0, "labelled") == trained  # nor does the teacher
    assert setup.phases[1].streams["held_out"].batch(0).label is not None


def test_which_patients_are_held_out_depends_on_the_seed_alone(data: Path) -> None:
    dataset = build(recipe(data, [TEACHER])).dataset
    chosen = [held_out_cases(recipe(data, [TEACHER, DISTIL], seed=seed), dataset) for seed in (0, 0, *range(1, 9))]
    assert chosen[0] == chosen[1]
    assert len(set(chosen)) > 1


def test_without_a_controller_nobody_is_held_out(data: Path) -> None:
    setup = build(recipe(data, [TEACHER]))
    read = {name for step in range(12) for name in setup.phases[0].streams["labelled"].batch(step).case_ids}
    assert len(read) == 3


def test_somebody_must_be_left_to_train_on(data: Path) -> None:
    with pytest.raises(InputError, match=r"held_out\.patients is 3, but .* has 3 labelled training patients"):
        build(recipe(data, [TEACHER, DISTIL], held_out={"patients": 3}))


def test_a_number_of_classes_that_is_not_the_datasets_is_refused(data: Path) -> None:
    wrong = DISTIL | {"method": {"kind": "tgeo_kd", "classes": 2}}
    with pytest.raises(InputError, match=r"phases\.distil\.method\.classes is 2; the dataset has 4 classes"):
        build(recipe(data, [TEACHER, wrong]))


def test_a_teacher_is_trained_and_distilled_from_end_to_end(data: Path, tmp_path: Path) -> None:
    """And its model folder teaches another student."""
    small = {"labelled": {"size": 4}, "held_out": {"size": 2}, "runtime": {"threads": 1}}
    train(recipe(data, [TEACHER, DISTIL], **small), tmp_path / "run")
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert len(manifest["cases"]["held_out"]) == 1
    assert set(manifest["cases"]["held_out"]) < set(manifest["cases"]["labelled"])
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {"alpha", "loss_held_out", "loss_distillation"} <= {key for row in rows for key in row}
    network = load_model(tmp_path / "run").network

    made = recipe(data, [DISTIL], teacher=str(tmp_path / "run"), **small)
    teacher = build(made).network("teacher")
    assert all(torch.equal(v, network.state_dict()[k]) for k, v in teacher.state_dict().items())
    train(made, tmp_path / "second")
    state = load_state(tmp_path / "second/last.safetensors")
    assert [name for name in state["method"] if name.startswith("teacher")] == ["teacher._extra_state"]


@pytest.mark.parametrize("world", [2, 4])
def test_the_ranks_read_the_slices_of_one_global_batch(data: Path, world: int) -> None:
    made = recipe(data, [TEACHER], labelled={"size": 8, "augment": {"preset": "strong"}, "foreground": 0.33})
    whole = build(made, ONE_PROCESS).phases[0].streams["labelled"]
    runtimes = [Runtime(torch.device("cpu"), rank=rank, world=world) for rank in range(world)]
    for step in range(3):
        expected = whole.batch(step)
        slices = [_stream(made, runtime).batch(step) for runtime in runtimes]
        assert torch.equal(torch.cat([b.image for b in slices]), expected.image)
        assert torch.equal(torch.cat([b.labels for b in slices]), expected.labels)
        assert sum((b.case_ids for b in slices), ()) == expected.case_ids
        cut = [runtime.batch(expected) for runtime in runtimes]  # a stream that gives the whole batch
        assert all(torch.equal(a.image, b.image) and a.draws == b.draws for a, b in zip(cut, slices))
        assert all(runtime.batch(b) is b for runtime, b in zip(runtimes, slices))


def _stream(made: Recipe, runtime: Runtime) -> Any:
    return replace(build(made, ONE_PROCESS).phases[0].streams["labelled"], rank=runtime.rank, world=runtime.world)


def test_batches_that_do_not_split_are_all_named(data: Path) -> None:
    bcp = {"name": "self", "method": {"kind": "bcp"}, "steps": 1}
    sizes = {"labelled": {"size": 10}, "unlabelled": {"size": 10}}
    check_slices(recipe(data, [bcp], **sizes), 1)
    with pytest.raises(InputError) as error:
        check_slices(recipe(data, [bcp], **sizes), 2)
    assert error.value.problems == [
        f"{name}.size is 10; 2 processes x phases.self.accumulate 1 x 2 (pairs) need a multiple of 4"
        for name in ("labelled", "unlabelled")
    ]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"phases": [DISTIL]}, "phases.distil needs a trained teacher; give teacher: MODEL, or becomes: teacher"),
        ({"phases": [TEACHER, DISTIL | {"optimizers": {"critic": {}}}]}, "tgeo_kd has the turns: controller, student"),
        ({"phases": [TEACHER, DISTIL], "runtime": {"compile": True}}, "runtime.compile is on, which tgeo_kd does not"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(values: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError) as error:
        parse_recipe(values)
    assert words in str(error.value)
