"""Arms on real data differ in what they are named for alone, and the shipped recipes are the measured ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medkd.claims import bcp_acdc, bcp_hippocampus
from medkd.claims.accounting import images, list_hash
from medkd.claims.bcp import experiment_on
from medkd.claims.bcp_acdc import ARMS, acdc_recipe
from medkd.claims.bcp_hippocampus import hippocampus_recipe
from medkd.claims.relabel import relabelled
from medkd.claims.runner import Run
from medkd.cli.app import run
from medkd.config.load import load_recipe
from medkd.data.augment_options import AugmentOptions
from medkd.data.dataset import Case, Dataset, read_dataset, write_dataset
from medkd.errors import InputError
from medkd.runs.phases import network_maker

CONFIGS = Path(__file__).parents[2] / "configs" / "segmentation"
DATA = Path("data")


def dataset(root: Path, patients: dict[str, int], labelled: int, classes: tuple[str, ...]) -> Dataset:
    """A dataset folder with the right table and empty files: two frames a patient."""
    cases = []
    for split, count in patients.items():
        for number in range(count):
            for frame in (1, 2):
                name = f"{split}{number:03d}_{frame}"
                paths = root / "images" / f"{name}.nii.gz", root / "labels" / f"{name}.nii.gz"
                for path in paths:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.touch()
                known = split != "train" or number < labelled
                cases.append(Case(name, f"{split}{number:03d}", split, known, paths[:1], paths[1], None, (4, 4, 2)))
    made = Dataset(root, "segmentation", ("mr",), classes, tuple(cases))
    write_dataset(made, {})
    return made


@pytest.fixture
def acdc(tmp_path: Path) -> Dataset:
    return dataset(tmp_path / "acdc", bcp_acdc.PATIENTS, 3, bcp_acdc.CLASSES)


def test_equal_updates_and_student_images() -> None:
    accounts = {arm: images(acdc_recipe(arm, DATA, 0))["student_images"] for arm in ARMS}
    updates = {arm: sum(p.steps for p in acdc_recipe(arm, DATA, 0).phases) for arm in ARMS}
    total, long = bcp_acdc.PRETRAIN + bcp_acdc.SELFTRAIN, bcp_acdc.PRETRAIN + bcp_acdc.LONG
    for arm in ("bcp_long", "labelled_strong_long"):
        assert (updates.pop(arm), accounts.pop(arm)) == (long, 12 * long)
    assert set(updates.values()) == {total}
    published = {arm: accounts.pop(arm) for arm in ("bcp_faithful", "bcp_faithful_twin")}
    assert set(accounts.values()) == {12 * total}
    assert set(published.values()) == {6 * bcp_acdc.PRETRAIN + 12 * bcp_acdc.SELFTRAIN}  # one way in stage 1


@pytest.mark.parametrize("arm", ["bcp", "bcp_faithful"])
def test_a_twin_differs_in_the_box_alone(arm: str) -> None:
    one, two = (acdc_recipe(name, DATA, 1).model_dump(mode="json") for name in (arm, f"{arm}_twin"))
    for phase in two["phases"]:
        assert phase["method"]["beta"] == 0
        phase["method"]["beta"] = 2 / 3
    assert one == two


@pytest.mark.parametrize("arm", ["bcp", "labelled_strong"])
def test_a_long_arm_differs_in_length_alone(arm: str) -> None:
    one, two = (acdc_recipe(name, DATA, 1).model_dump(mode="json") for name in (arm, f"{arm}_long"))
    assert two["phases"][-1].pop("steps") - one["phases"][-1].pop("steps") == bcp_acdc.LONG - bcp_acdc.SELFTRAIN
    assert one == two


def test_self_training_is_bcp_without_a_box_from_the_same_stage_1() -> None:
    one, two = (acdc_recipe(name, DATA, 0).model_dump(mode="json") for name in ("bcp", "self_training"))
    a, b = one["phases"].pop(1), two["phases"].pop(1)
    assert one == two
    methods = a.pop("method"), b.pop("method")
    assert a == b
    shared = methods[0].keys() & methods[1].keys() - {"kind"}
    assert {"pseudo_weight", "components", "teacher", "dice", "joint_forward"} <= shared
    assert all(methods[0][key] == methods[1][key] for key in shared)


@pytest.mark.parametrize("arm", ARMS)
def test_every_arm_shares_what_it_is_not_named_for(arm: str) -> None:
    recipe, reference = acdc_recipe(arm, DATA, 2), acdc_recipe("bcp", DATA, 2)
    assert recipe.seed == reference.seed == 2
    assert recipe.preprocess.size == reference.preprocess.size
    assert getattr(recipe.network, "features", None) == getattr(reference.network, "features", None)
    if "faithful" not in arm:
        assert (recipe.network, recipe.preprocess) == (reference.network, reference.preprocess)


def test_the_published_arm_is_the_published_recipe_but_for_its_size() -> None:
    arm, published = acdc_recipe("bcp_faithful", DATA, 0), load_recipe(CONFIGS / "bcp_faithful_2d.yaml")
    for one, two in zip(arm.phases, published.phases):
        assert one.method == two.method
        assert one.optimizer == two.optimizer
        assert one.carry_optimizer == two.carry_optimizer
    assert (arm.labelled, arm.unlabelled) == (published.labelled, published.unlabelled)
    assert arm.preprocess.intensity == published.preprocess.intensity
    assert arm.preprocess.interpolation == published.preprocess.interpolation
    assert getattr(arm.network, "norm", 0) == getattr(published.network, "norm", 1)
    assert getattr(arm.network, "dropout", 0) == getattr(published.network, "dropout", 1)


def test_the_published_3d_recipe_is_the_left_atrium_column_of_the_card() -> None:
    recipe = load_recipe(CONFIGS / "bcp_faithful_3d.yaml")
    for stream in (recipe.labelled, recipe.unlabelled):
        assert stream.size == 4
        assert stream.augment.model_dump() == AugmentOptions(preset="bcp_3d").model_dump()
        assert (stream.augment.turn, stream.augment.turn_else_rotate) == (1.0, 0.0)  # a quarter turn and a flip, always
    assert recipe.preprocess.patch == (112, 112, 80)
    one, two = recipe.phases
    assert (one.steps, two.steps, two.carry_optimizer) == (2000, 15000, False)
    assert one.method.model_dump()["inclusive_end"] is False
    assert (two.method.kind, two.method.model_dump()["preset"]) == ("bcp", "faithful_3d")
    for phase in (one, two):
        assert (phase.optimizer.kind, phase.optimizer.lr, phase.validate_every) == ("sgd", 0.01, 200)
    rate = two.optimizer.model_dump()["schedule"]
    assert (rate["kind"], rate["every"], rate["factor"]) == ("staircase", 2500, 0.1)


def test_the_shipped_recipes_are_the_measured_ones() -> None:
    shipped = load_recipe(CONFIGS / "bcp_acdc_3.yaml", ["data=data"])
    assert shipped == acdc_recipe("bcp", DATA, 0)
    assert load_recipe(CONFIGS / "labelled_only_acdc_3.yaml", ["data=data"]).phases == (
        acdc_recipe("labelled_only", DATA, 0).phases
    )
    assert load_recipe(CONFIGS / "bcp_3d_small.yaml", ["data=data"]) == hippocampus_recipe("bcp", DATA, 0)


def test_three_dimensional_arms_see_as_many_images() -> None:
    accounts = {arm: images(hippocampus_recipe(arm, DATA, 0))["student_images"] for arm in bcp_hippocampus.ARMS}
    assert len(set(accounts.values())) == 1


def test_plan_and_datasets(acdc: Dataset, tmp_path: Path) -> None:
    experiment = experiment_on(acdc.root, 3)
    assert [str(run) for run in experiment.plan[:4]] == [
        "labelled_only seed 0", "self_training seed 0", "bcp seed 0", "bcp_twin seed 0",
    ]  # fmt: skip
    assert [run.seed for run in experiment.plan] == sorted(run.seed for run in experiment.plan)
    assert len(experiment.plan) == 3 * len(ARMS)
    hashes = {}
    for arm, labelled in (("bcp", 3), ("bcp_7", 7), ("all_labelled", 70)):
        data = read_dataset(experiment.dataset(Run(arm, 0), tmp_path / "work"))
        hashes[labelled] = list_hash(data)
        assert [c.patient for c in data.select("train", labelled=True)[::2]] == [
            f"train{n:03d}" for n in range(labelled)
        ]
        assert [c.id for c in data.cases] == [c.id for c in acdc.cases]
    assert len(set(hashes.values())) == 3
    assert experiment.dataset(Run("bcp", 0), tmp_path) == acdc.root


def test_data_that_is_not_the_experiments(acdc: Dataset, tmp_path: Path) -> None:
    other = dataset(tmp_path / "other", {"train": 4, "val": 1, "test": 1}, 1, ("background", "lesion"))
    with pytest.raises(InputError, match="lesion"):
        experiment_on(other.root, 1)
    with pytest.raises(InputError, match=r"prepare it with data_prep/acdc\.py --labelled 3"):
        experiment_on(relabelled(acdc, 7, tmp_path / "seven"), 1)


def test_relabelling_refuses_to_leave_a_label_out(acdc: Dataset, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="71 labelled training patients"):
        relabelled(acdc, 71, tmp_path / "more")
    with pytest.raises(InputError, match="now labelled come later"):
        relabelled(acdc, 2, tmp_path / "fewer")


def test_the_network_of_a_seed_is_one(acdc: Dataset) -> None:
    from medkd.claims.accounting import parameter_hash

    hashes = {parameter_hash(network_maker(acdc_recipe(arm, DATA, 1), acdc)(0)) for arm in ARMS}
    assert len(hashes) == 1
    assert hashes != {parameter_hash(network_maker(acdc_recipe("bcp", DATA, 2), acdc)(0))}


def test_the_command_writes_a_page_of_what_is_missing(acdc: Dataset, tmp_path: Path, capsys) -> None:
    arguments = ["reproduce", "bcp", "--data", str(acdc.root), "--seeds", "2", "--out", str(tmp_path / "results")]
    assert run([*arguments, "--page-only", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert len(result["missing"]) == 2 * len(ARMS)
    assert "**0 of 28 runs are finished.**" in (tmp_path / "results" / "bcp_acdc.md").read_text()
    assert run(["reproduce", "bcp", "--data", str(tmp_path), "--page-only"]) == 2
