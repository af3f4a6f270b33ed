"""A student a tenth the size of its teacher: the arms differ in their losses alone, one teacher a seed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from medkd.claims import distilled_segmentation as module
from medkd.claims.accounting import images
from medkd.claims.distilled_segmentation import ARMS, STEPS, TAUGHT, WITHIN, distilled_recipe, distilled_segmentation
from medkd.claims.experiment import Aim, Experiment
from medkd.claims.page import page
from medkd.claims.reproduce import reproduce
from medkd.claims.runner import Run, finished, read_lines
from medkd.claims.scan_cost import cost_file, read_cost
from medkd.claims.verdict import summarise
from medkd.cli.app import run
from medkd.config.load import load_recipe
from medkd.errors import InputError
from medkd.runs.prepare import prepare

DATA = Path("data")
CONFIG = Path(__file__).parents[2] / "configs" / "distill" / "segmentation.yaml"
CASES = {"train": 2, "val": 1, "test": 3}


@pytest.fixture
def experiment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Experiment:
    """Four arms of one update each on scans of 14 x 18 x 14 mm with two bright parts."""
    (tmp_path / "source").mkdir()
    rows = ["case,patient,image,label,split"]
    for number, split in enumerate(s for s, count in CASES.items() for _ in range(count)):
        label = np.zeros((14, 18, 14), np.uint8)
        label[4:10, 3:9, 4:10], label[4:10, 9:14, 4:10] = 1, 2
        noise = np.random.default_rng(number).normal(size=label.shape)
        for kind, array in (("image", (100 + 50 * label + 10 * noise).astype(np.float32)), ("label", label)):
            scan = nib.Nifti1Image(array, np.eye(4))
            scan.header.set_xyzt_units("mm")
            nib.save(scan, tmp_path / "source" / f"{kind}_{number}.nii.gz")
        rows.append(f"c{number},p{number},image_{number}.nii.gz,label_{number}.nii.gz,{split}")
    (tmp_path / "source" / "cases.csv").write_text("\n".join(rows) + "\n")
    table = tmp_path / "source" / "cases.csv"
    prepare(tmp_path / "source", tmp_path / "data", table=table, classes=module.CLASSES, channels=("mr",), labelled=2)
    monkeypatch.setattr(module, "PATIENTS", CASES)
    monkeypatch.setattr(module, "STEPS", 1)
    monkeypatch.setattr(module, "TEACHER", module.UNET | {"features": [4, 4, 8, 8, 8]})
    monkeypatch.setattr(module, "STUDENT", module.UNET | {"features": [2, 2, 2, 2, 2]})
    whole = distilled_segmentation(tmp_path / "data", 1)
    return dataclasses.replace(whole, plan=tuple(Run(arm, 0) for arm in ("teacher", "alone", "kd", "mgd")))


def test_students_differ_in_method_and_teacher_alone() -> None:
    reference = distilled_recipe("alone", DATA, 1, STEPS).model_dump(mode="json")
    for arm in TAUGHT:
        mine = distilled_recipe(arm, DATA, 1, STEPS).model_dump(mode="json")
        assert mine.pop("teacher"), arm
        assert mine["phases"][0].pop("method") != reference["phases"][0]["method"]
        for key in mine.keys() - {"phases"}:
            assert mine[key] == reference[key], (arm, key)
        assert mine["phases"][0] == {k: v for k, v in reference["phases"][0].items() if k != "method"}
    teacher = distilled_recipe("teacher", DATA, 1, STEPS)
    assert teacher.model_copy(update={"network": distilled_recipe("alone", DATA, 1, STEPS).network}) == (
        distilled_recipe("alone", DATA, 1, STEPS)
    )
    assert {images(distilled_recipe(arm, DATA, 0, STEPS))["student_images"] for arm in ARMS} == {4 * STEPS}
    assert {images(distilled_recipe(arm, DATA, 0, STEPS))["teacher_images"] for arm in TAUGHT} == {4 * STEPS}


def test_a_student_has_at_most_a_tenth_of_the_parameters_and_every_method_fits() -> None:
    sizes = {}
    teacher = distilled_recipe("teacher", DATA, 0, STEPS)
    for arm in ARMS:
        recipe = distilled_recipe(arm, DATA, 0, STEPS)
        network = recipe.build_network(0, 1, 3)
        sizes[arm] = sum(p.numel() for p in network.parameters())
        method = recipe.phases[0].method.build(
            lambda i, own=network: teacher.build_network(0, 1, 3) if i == "teacher" else own  # type: ignore[misc]
        )
        shipped = method.candidates()["student"]
        assert sum(p.numel() for p in shipped.parameters()) == sizes[arm], "a projector or an exit would ship"
    assert len({sizes[arm] for arm in ("alone", *TAUGHT)}) == 1
    assert sizes["alone"] <= sizes["teacher"] / 10


def test_the_shipped_recipe_is_the_measured_one() -> None:
    shipped = load_recipe(CONFIG, ["data=data"])
    before, after = shipped.phases
    assert before == distilled_recipe("teacher", DATA, 0, STEPS).phases[0].model_copy(
        update={"name": "teacher", "becomes": "teacher", "network": before.network}
    )
    assert before.network == distilled_recipe("teacher", DATA, 0, STEPS).network
    measured = distilled_recipe("bpkd_tenth", DATA, 0, STEPS)
    assert after == measured.phases[0].model_copy(update={"name": "student"})
    for key in ("network", "preprocess", "labelled", "loss", "runtime"):
        assert getattr(shipped, key) == getattr(measured, key), key


def test_four_arms_end_to_end(experiment: Experiment, tmp_path: Path) -> None:
    lines = {line["arm"]: line for line in reproduce(experiment, tmp_path / "out")}
    assert list(lines) == ["teacher", "alone", "kd", "mgd"]
    students = [lines[arm] for arm in ("alone", "kd", "mgd")]
    assert len({line["start_weights"] for line in students}) == 1
    assert len({line["weights"] for line in students}) == 3, "the arms learnt the same"
    assert lines["kd"]["teacher_weights"] == lines["mgd"]["teacher_weights"] == lines["teacher"]["weights"]
    assert lines["alone"]["teacher_weights"] is None
    assert all(str(tmp_path) not in json.dumps(line) for line in lines.values()), "a line holds a path"
    assert any(name.startswith("hd95") and name.endswith("_mm") for name in lines["kd"]["scores_best"]["mean"])

    folder = tmp_path / "out" / experiment.name
    cost = read_cost(experiment, folder)
    assert cost["scans"] == 2  # of three, the first warms up
    assert set(cost["seconds"]) == set(lines)
    text = (tmp_path / "out" / "distilled_segmentation.md").read_text()
    assert "taught by one teacher a seed" in text
    assert "Arms of one seed and size start from the same parameters" in text
    assert f"{lines['teacher']['parameters']:,}" in text
    assert "CPU s a scan" in text
    stamp = cost_file(folder).read_text()
    reproduce(experiment, tmp_path / "out")
    assert len(read_lines(folder / "runs.jsonl")) == 4, "a run was made twice"
    assert cost_file(folder).read_text() == stamp, "the cost was measured twice"

    # a teacher's model that is gone, with its line still there
    kept = [line for line in read_lines(folder / "runs.jsonl") if line["arm"] != "kd"]
    (folder / "runs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    (folder / "work" / "1" / "seed_0" / "teacher").rename(tmp_path / "gone")
    with pytest.raises(InputError, match="kd seed 0 learns from the model of teacher seed 0"):
        reproduce(experiment, tmp_path / "out")
    assert [r.arm for r in finished(experiment, folder)] == ["teacher", "alone", "mgd"]


def test_the_page_judges_the_distance_to_the_teacher(experiment: Experiment, line, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    shared = {"counts": {"labelled": 182, "unlabelled": 0, "validation": 26, "test": 52}, "split": "s", "labelled": "l"}

    def row(arm: str, dice: float, parameters: int, **more: object) -> dict[str, object]:
        more |= {"start_weights": f"hash{parameters}"}
        return line(arm, 0, dice, "1", parameters=parameters, **shared, **more)

    experiment = dataclasses.replace(experiment, labelled=182)
    lines = [row("teacher", 0.85, 100, weights="w"), row("kd", 0.845, 9, teacher_weights="w"), row("alone", 0.83, 9)]
    lines.append(row("mgd", 0.80, 9, teacher_weights="w"))
    text = page(experiment, lines, tmp_path)
    assert "- kd at most 0.01 below teacher: **reached**, -0.005 (1 seeds)" in text
    assert "- alone at most 0.01 below teacher: **missed**, -0.020 (1 seeds)" in text
    assert "- cwd at most 0.01 below teacher: not measured yet" in text
    assert "taught by one teacher a seed" in text
    assert "DIFFERENT teachers" in page(experiment, [*lines[:3], lines[3] | {"teacher_weights": "other"}], tmp_path)
    assert summarise(experiment, lines)["claim"] == "distilled-segmentation"
    assert str(Aim("kd", -WITHIN, "teacher")) == "kd at most 0.01 below teacher"


def test_the_command_says_what_data_it_needs(experiment: Experiment, tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    assert run(["reproduce", "distilled-segmentation"]) == 2
    assert "--labelled 2 " in capsys.readouterr().err
    arguments = [
        "--data",
        str(tmp_path / "data"),
        "--seeds",
        "2",
        "--out",
        str(tmp_path / "o"),
        "--page-only",
        "--json",
    ]
    assert run(["reproduce", "distilled-segmentation", *arguments]) == 0
    assert len(json.loads(capsys.readouterr().out)["missing"]) == 2 * len(ARMS)
    assert f"**0 of {2 * len(ARMS)} runs are finished.**" in (tmp_path / "o" / "distilled_segmentation.md").read_text()
    module.PATIENTS["train"] = 5
    try:
        assert run(["reproduce", "distilled-segmentation", *arguments]) == 2
    finally:
        module.PATIENTS["train"] = 2
    assert "prepare it with data_prep/hippocampus.py --labelled 5" in capsys.readouterr().err
