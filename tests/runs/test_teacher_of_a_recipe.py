"""The input contract of a teacher: what is converted gives the logits of the teacher alone, the rest is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor
from typer.testing import CliRunner

from medkd.cli.app import app
from medkd.config.load import parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.dataset import read_dataset
from medkd.data.phantom import CLASSES, PhantomOptions, write_cohort
from medkd.data.preprocess import prepare_scan
from medkd.distill.methods.distil import Distil
from medkd.distill.methods.forward import teacher_logits
from medkd.engine.checkpoint import load_state
from medkd.engine.phases import Phase
from medkd.errors import InputError
from medkd.imaging.nifti import read_nifti
from medkd.inference.model_folder import SegmentationModel
from medkd.runs.prepare import prepare
from medkd.runs.signals import store_signals
from medkd.runs.train import build, train

NETWORK = {"kind": "BasicUNet", "features": [4, 4, 8, 8, 8], "norm": "batch", "dropout": [0.0]}
TEACHER = {"name": "teach", "method": {"kind": "supervised"}, "steps": 3}
STUDENT = {"name": "student", "method": {"kind": "distil", "dry_size": 32}, "steps": 2}
Tree = dict[str, Any]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("contract")
    write_cohort(folder / "cohort", PhantomOptions(labelled=3, unlabelled=1, validation=1, test=1, size=32))
    prepare(folder / "cohort", folder / "data", table=folder / "cohort/cases.csv", classes=CLASSES)
    return folder / "data"


@pytest.fixture(scope="module")
def model(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained on images of zero mean and unit variance."""
    out = tmp_path_factory.mktemp("model") / "run"
    train(recipe(data, [TEACHER], preprocess={"intensity": {"kind": "zscore"}}), out)
    return out


def recipe(data: Path, phases: list[Tree], preprocess: Tree | None = None, **values: Any) -> Recipe:
    images = {"size": [32, 32], "patch": [32, 32]} | (preprocess or {})
    rest = {"labelled": {"size": 4}, "runtime": {"threads": 1, "device": "cpu"}} | values
    return parse_recipe({"data": str(data), "preprocess": images, "network": NETWORK, "phases": phases, **rest})


def described(model: Path, folder: Path, **changes: Any) -> Path:
    """A copy of the model with another model.yaml."""
    folder.mkdir()
    tree = yaml.safe_load((model / "model/model.yaml").read_text())
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    (folder / "model.yaml").write_text(yaml.safe_dump(tree))
    (folder / "model.safetensors").write_bytes((model / "model/model.safetensors").read_bytes())
    return folder


def distilled(made: Recipe) -> tuple[Distil, Phase]:
    setup = build(made)
    method = setup.phases[-1].build(setup.phases[-1].networks or setup.network)
    assert isinstance(method, Distil)
    return method, setup.phases[-1]


def alone(model: Path, data: Path) -> dict[str, Tensor]:
    """The logits (Z, K, H, W) of the teacher for each training scan, without anything of training in between."""
    opened = load_model(model)
    assert isinstance(opened.description, SegmentationModel)
    result = {}
    for case in read_dataset(data).select("train", labelled=True):
        images, _ = prepare_scan([read_nifti(path) for path in case.images], opened.description.preprocess)
        with torch.no_grad():
            result[case.id] = opened.network(images.half().float())  # training keeps its images in half precision
    return result


def same_as_one_of(logits: Tensor, case: str, expected: dict[str, Tensor]) -> bool:
    """Which slice of the scan a sample is, the batch does not say."""
    return any(torch.allclose(logits, whole, atol=1e-4) for whole in expected[case])


def test_a_teacher_of_other_intensities_gets_images_of_its_own(data: Path, model: Path) -> None:
    made = recipe(data, [STUDENT], {"intensity": {"kind": "minmax"}}, teacher=str(model))
    method, phase = distilled(made)
    expected, batch = alone(model, data), phase.streams["labelled"].batch(0)
    logits = teacher_logits(method.teacher, batch)
    for one, case in zip(logits, batch.case_ids):
        assert same_as_one_of(one, case, expected)
    wrong = method.teacher(batch.image)  # what it would have said of the student's images
    assert not any(same_as_one_of(one, case, expected) for one, case in zip(wrong, batch.case_ids))


def test_the_images_of_both_show_the_same_place(data: Path, model: Path) -> None:
    """Cut and augmented alike: of two minimum-maximum images the one is the other, squeezed."""
    augment = {"turn": 1.0, "rotate": 1.0, "scale": 1.0, "flip": 0.5, "interpolation": "nearest"}
    made = recipe(
        data, [STUDENT], {"intensity": {"kind": "minmax"}, "patch": [16, 16]}, teacher=str(model),
        labelled={"size": 6, "augment": augment},
    )  # fmt: skip
    batch = distilled(made)[1].streams["labelled"].batch(1)
    theirs = batch.view["teacher_image"]
    for a, b in zip(batch.image.flatten(1), theirs.flatten(1)):
        seen = b != 0  # outside the image both are 0, whatever the scale
        assert torch.corrcoef(torch.stack([a[seen], b[seen]]))[0, 1] > 0.999
    assert not torch.equal(batch.image, theirs)


def test_classes_in_another_order_are_put_in_ours(data: Path, model: Path, tmp_path: Path) -> None:
    names = yaml.safe_load((model / "model/model.yaml").read_text())["classes"]
    turned = [names[0], *reversed(names[1:])]
    other = described(model, tmp_path / "turned", classes=turned)
    method, phase = distilled(recipe(data, [STUDENT], {"intensity": {"kind": "zscore"}}, teacher=str(other)))
    batch = phase.streams["labelled"].batch(0)
    with torch.no_grad():
        raw = load_model(other).network(batch.image)
    torch.testing.assert_close(teacher_logits(method.teacher, batch), raw[:, [turned.index(name) for name in names]])


def test_classes_that_the_dataset_does_not_have_are_background(data: Path, tmp_path: Path) -> None:
    """Probabilities of the teacher alone: those of background and of the class more add up."""
    names = read_dataset(data).classes
    assert len(names) == 4
    run = tmp_path / "run"
    train(recipe(data, [TEACHER]), run)
    other = described(run, tmp_path / "renamed")
    smaller = tmp_path / "data"
    smaller.mkdir()
    for path in data.iterdir():
        if path.name != "dataset.yaml" and path.name != ".cache":
            (smaller / path.name).symlink_to(path)
    tree = yaml.safe_load((data / "dataset.yaml").read_text())
    (smaller / "dataset.yaml").write_text(yaml.safe_dump(tree | {"classes": list(names[:3])}))
    method, phase = distilled(recipe(smaller, [STUDENT], teacher=str(other)))
    batch = phase.streams["labelled"].batch(0)
    with torch.no_grad():
        raw = load_model(other).network(batch.image).softmax(1)
        mapped = method.teacher(batch.image).softmax(1)
    expected = torch.stack([raw[:, 0] + raw[:, 3], raw[:, 1], raw[:, 2]], 1)
    torch.testing.assert_close(mapped, expected)


def test_what_cannot_be_converted_is_refused(data: Path, model: Path, tmp_path: Path) -> None:
    cases: list[tuple[Tree, str]] = [
        ({"classes": ["background", "lv", "rv", "spleen"]}, "knows nothing of "),
        ({"channels": ["flair"]}, r"has the channels flair; the dataset .*: it needs flair"),
        ({"preprocess": {"size": [40, 40]}}, r"trained with preprocess\.size \(40, 40\), the recipe has \(32, 32\)"),
        ({"preprocess": {"size": None, "spacing": [2.0, 2.0]}}, r"preprocess\.spacing \(2\.0, 2\.0\), .* has None"),
    ]
    for number, (changes, message) in enumerate(cases):
        other = described(model, tmp_path / str(number), **changes)
        with pytest.raises(InputError, match=message):
            build(recipe(data, [STUDENT], {"intensity": {"kind": "zscore"}}, teacher=str(other)))


def test_another_patch_is_no_obstacle(data: Path, model: Path, tmp_path: Path) -> None:
    other = described(model, tmp_path / "patch", preprocess={"patch": [16, 16]})
    method, phase = distilled(recipe(data, [STUDENT], {"intensity": {"kind": "zscore"}}, teacher=str(other)))
    batch = phase.streams["labelled"].batch(0)
    with torch.no_grad():
        torch.testing.assert_close(teacher_logits(method.teacher, batch), load_model(other).network(batch.image))


def test_two_teachers_of_which_one_wants_other_images_are_refused(data: Path, model: Path) -> None:
    with pytest.raises(InputError, match=r"phases\.teach makes a teacher of the recipe's; keep one of the two"):
        build(recipe(data, [TEACHER | {"becomes": "teacher"}, STUDENT], teacher=str(model)))


# Stored signals


@pytest.fixture(scope="module")
def signals(data: Path, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("signals") / "logits"
    done = CliRunner().invoke(app, ["predict", str(model), "-i", str(data), "-o", str(out), "--logits"])
    assert done.exit_code == 0, done.output
    assert "cases with logits: 4 written, 0 kept" in done.output
    return out


def test_stored_signals_are_those_of_the_live_teacher(data: Path, model: Path, signals: Path) -> None:
    """Loss, gradients and all, also where the student sees other intensities."""
    steps = []
    for teacher in (model, signals):
        made = recipe(data, [STUDENT], {"intensity": {"kind": "minmax"}}, teacher=str(teacher))
        method, phase = distilled(made)
        batch = phase.streams["labelled"].batch(3)
        logits = teacher_logits(method.teacher, batch)
        steps.append((logits, batch.case_ids))
    assert steps[0][1] == steps[1][1]
    torch.testing.assert_close(steps[0][0], steps[1][0], rtol=1e-5, atol=1e-5)


def test_a_run_with_stored_signals_is_the_run_with_the_live_teacher(
    data: Path, model: Path, signals: Path, tmp_path: Path
) -> None:
    ends = []
    for name, teacher in (("live", model), ("stored", signals)):
        made = recipe(data, [STUDENT | {"steps": 3}], {"intensity": {"kind": "zscore"}}, teacher=str(teacher))
        train(made, tmp_path / name)
        ends.append(load_model(tmp_path / name).network.state_dict())
    for key, value in ends[0].items():
        torch.testing.assert_close(ends[1][key], value, rtol=1e-4, atol=1e-5)


def test_only_what_changed_is_asked_again(data: Path, model: Path, signals: Path, tmp_path: Path) -> None:
    done = store_signals(model, data, signals, device="cpu")
    assert (len(done.written), len(done.kept)) == (0, 4)
    other = described(model, tmp_path / "other")
    train(recipe(data, [TEACHER]), tmp_path / "run")
    with pytest.raises(InputError, match=r"holds signals of segmentation model \w+, not of segmentation model"):
        store_signals(tmp_path / "run", data, signals, device="cpu")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files"):
        store_signals(other, data, tmp_path / "full", device="cpu")


def test_signals_are_refused_where_they_would_be_wrong(data: Path, model: Path, signals: Path, tmp_path: Path) -> None:
    images = {"intensity": {"kind": "zscore"}}
    with pytest.raises(InputError, match=r"labelled\.augment changes them \(flip\); set labelled\.augment"):
        build(recipe(data, [STUDENT], images, teacher=str(signals), labelled={"size": 4, "augment": {"flip": 0.5}}))
    features = {"kind": "distil", "losses": [{"kind": "fitnets", "student": "upcat_1", "teacher": "upcat_1"}]}
    with pytest.raises(InputError, match="a stored teacher has logits alone, and losses has fitnets"):
        distilled(recipe(data, [STUDENT | {"method": features}], images, teacher=str(signals)))
    smaller = described(model, tmp_path / "patch", preprocess={"patch": [16, 16]})
    with pytest.raises(InputError, match=r"larger than the model's patch of 16 x 16, such as \w+ of 32 x 32"):
        store_signals(smaller, data, tmp_path / "never", device="cpu")
    made = recipe(data, [STUDENT], images | {"patch": [16, 16]}, teacher=str(signals))
    with pytest.raises(InputError, match=r"logits of \d+ images of \(32, 32\); needed: image \d+, \(16, 16\)"):
        build(made).phases[0].streams["labelled"].batch(0)


def test_signals_in_another_order_of_classes_are_put_in_ours(data: Path, signals: Path, tmp_path: Path) -> None:
    names = list(read_dataset(data).classes)
    turned = [names[0], *reversed(names[1:])]
    other = tmp_path / "turned"
    other.mkdir()
    for path in signals.glob("*.safetensors"):
        (other / path.name).write_bytes(path.read_bytes())
    (other / "signals.yaml").write_text(yaml.safe_dump({"task": "segmentation", "classes": turned}))
    logits = []
    for folder in (signals, other):
        method, phase = distilled(recipe(data, [STUDENT], teacher=str(folder)))
        logits.append(teacher_logits(method.teacher, phase.streams["labelled"].batch(0)))
    assert torch.equal(logits[1], logits[0][:, [turned.index(name) for name in names]])
    (other / "signals.yaml").write_text(yaml.safe_dump({"task": "segmentation", "classes": names[:3]}))
    with pytest.raises(InputError, match=r"has the classes background, \w+, \w+; the dataset background, .* any order"):
        build(recipe(data, [STUDENT], teacher=str(other)))


def test_a_missing_case_is_an_error(data: Path, signals: Path, tmp_path: Path) -> None:
    part = tmp_path / "part"
    part.mkdir()
    files = sorted(signals.glob("*.safetensors"))
    for path in [*files[1:], signals / "signals.yaml"]:
        (part / path.name).write_bytes(path.read_bytes())
    with pytest.raises(InputError, match=f"has no signals of {files[0].stem}"):
        build(recipe(data, [STUDENT], teacher=str(part)))


def test_a_run_goes_on_with_the_same_signals_alone(data: Path, signals: Path, tmp_path: Path) -> None:
    """A copy is the same. Another description is not, nor is a file of the same size with one other bit."""
    made = recipe(data, [STUDENT], {"intensity": {"kind": "zscore"}}, teacher=str(signals))
    train(made, tmp_path / "run")
    state = load_state(tmp_path / "run/last.safetensors")["method"]
    for name in ("same", "described", "bit"):
        shutil.copytree(signals, tmp_path / name)
    description, file = tmp_path / "described/signals.yaml", min((tmp_path / "bit").glob("*.safetensors"))
    description.write_text(description.read_text().replace("of: seg", "of: another seg"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    methods = {
        name: distilled(made.model_copy(update={"teacher": str(tmp_path / name)}))[0]
        for name in ("same", "described", "bit")
    }
    methods["same"].load_state_dict(state)
    for name in ("described", "bit"):
        with pytest.raises(InputError, match="the stored signals are others than those this run was started with"):
            methods[name].load_state_dict(state)
