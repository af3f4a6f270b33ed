from __future__ import annotations

from pathlib import Path

import pytest

from medkd.config.load import load_recipe, parse_recipe
from medkd.errors import InputError

CONFIGS = sorted((Path(__file__).parents[2] / "configs").rglob("*.yaml"))


def tree() -> dict:
    return {"phases": [{"name": "training", "method": {"kind": "supervised"}, "steps": 10}]}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_shipped_recipe_parses(path: Path) -> None:
    recipe = load_recipe(path)
    assert recipe.phases


def test_the_shipped_recipes_are_found() -> None:
    assert len(CONFIGS) >= 3


def test_unknown_key_names_the_nearest() -> None:
    wrong = tree() | {"sed": 3}
    with pytest.raises(InputError, match=r"unknown key sed: did you mean 'seed'\?"):
        parse_recipe(wrong)


def test_unknown_key_deep_inside_a_method_names_the_nearest() -> None:
    wrong = tree()
    wrong["phases"][0]["method"] = {"kind": "bcp", "teacher": {"decy": 0.9}}
    with pytest.raises(InputError, match="did you mean 'decay'"):
        parse_recipe(wrong)


def test_unknown_method_names_the_allowed_ones() -> None:
    wrong = tree()
    wrong["phases"][0]["method"] = {"kind": "bpc"}
    with pytest.raises(InputError, match=r"did you mean 'bcp'\? allowed: .*'unimatch'"):
        parse_recipe(wrong)


def test_all_problems_at_once() -> None:
    wrong = tree() | {"seed": -1, "netwrk": {}}
    with pytest.raises(InputError) as caught:
        parse_recipe(wrong)
    assert len(caught.value.problems) == 2


def test_a_wrong_value_in_the_only_phase_is_one_problem() -> None:
    wrong = tree()
    wrong["phases"][0]["steps"] = -1
    with pytest.raises(InputError) as caught:
        parse_recipe(wrong)
    assert [problem.split(" is ")[0] for problem in caught.value.problems] == ["phases.0.steps"]
    with pytest.raises(InputError, match=r"phases is .*at least 1 item"):
        parse_recipe({"phases": []})


def test_overrides_by_name_and_by_number() -> None:
    assert parse_recipe(tree(), ["phases.training.steps=77"]).phases[0].steps == 77
    assert parse_recipe(tree(), ["phases.0.steps=78", "seed=5"]).seed == 5
    assert parse_recipe(tree(), ["preprocess.intensity.kind=zscore"]).preprocess.intensity.kind == "zscore"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("steps", "not key=value"),
        ("phases.pretrain.steps=1", "no 'pretrain' in the list; allowed: training"),
        ("seed.low=1", "unknown key|has no parts"),
        ("seed=[", "does not parse"),
    ],
)
def test_bad_overrides(text: str, message: str) -> None:
    start = tree() | {"seed": 1}
    with pytest.raises(InputError, match=message):
        parse_recipe(start, [text])


def test_yaml_that_does_not_parse(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("phases: [\n  - a: b: c")
    with pytest.raises(InputError, match="is not YAML") as caught:
        load_recipe(path)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


def test_code_in_yaml_is_refused_unexecuted(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    target = tmp_path / "ran"
    path.write_text(f"seed: !!python/object/apply:pathlib.Path.touch ['{target}']\n")
    with pytest.raises(InputError):
        load_recipe(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labelled": {"size": 5}}, "pairs the samples"),
        ({"labelled": {"size": 4}, "unlabelled": {"size": 8}}, "must be equal"),
        ({"unlabelled": {"foreground": 0.3}}, "no effect"),
        ({"preprocess": {"dims": 3}}, "patch has 2 entries"),
        ({"preprocess": {"size": [8, 8], "spacing": [1, 1]}}, "give one"),
    ],
)
def test_combinations_that_cannot_work(change: dict, message: str) -> None:
    wrong = {"phases": [{"name": "a", "method": {"kind": "bcp"}, "steps": 1}]} | change
    with pytest.raises(InputError, match=message):
        parse_recipe(wrong)


def test_faithful_preset_is_the_published_pipeline() -> None:
    def method(**values: object) -> object:
        return (
            parse_recipe({"phases": [{"name": "a", "method": {"kind": "bcp", **values}, "steps": 1}]}).phases[0].method
        )

    two, three = method(preset="faithful_2d"), method(preset="faithful_3d")
    assert (two.dice, two.connectivity, two.inclusive_end, two.joint_forward) == ("batch_squared", 8, False, False)
    teacher = two.teacher
    assert (teacher.decay, teacher.buffers, teacher.mode, teacher.warmup) == (0.99, "blend", "train", False)
    assert (three.dice, three.connectivity, three.teacher.buffers) == ("sample_linear", 26, "own")
    assert two.beta == pytest.approx(2 / 3)
    assert two.pseudo_weight == 0.5
    assert method(preset="faithful_2d", pseudo_weight=0.1).pseudo_weight == 0.1
    slower = method(preset="faithful_2d", teacher={"decay": 0.999}).teacher
    assert (slower.decay, slower.buffers, slower.mode) == (0.999, "blend", "train")
