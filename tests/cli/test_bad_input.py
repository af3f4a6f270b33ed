"""What a user gets wrong: exit code 2, one readable message, no traceback, nothing half-written."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from medkd.cli.app import run


def write_scan(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([1.5, 1.5, 8.0, 1.0]) if affine is None else affine)
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Six patients with a bright square, labelled."""
    rng = np.random.default_rng(0)
    for number in range(6):
        label = np.zeros((24, 24, 3), np.uint8)
        label[5 + number : 14 + number, 6:15] = 1
        image = (label.astype(int) * 300 + rng.integers(0, 100, label.shape)).astype(np.int16)
        write_scan(tmp_path / "source" / "images" / f"p{number}_a.nii.gz", image)
        write_scan(tmp_path / "source" / "labels" / f"p{number}_a.nii.gz", label)
    return tmp_path / "source"


def prepare(source: Path, out: Path, *more: str) -> int:
    return run(
        ["prepare", str(source), "--out", str(out), "--classes", "background,square", "--split", "0.6/0.2/0.2",
         "--labelled", "1", *more]
    )  # fmt: skip


RECIPE = {
    "preprocess": {"size": [16, 16], "patch": [16, 16]},
    "network": {"kind": "BasicUNet", "features": [4, 4, 4, 4, 4]},
    "labelled": {"size": 4},
    "unlabelled": {"size": 4},
    "phases": [
        {"name": "pretrain", "method": {"kind": "labelled_copy_paste"}, "steps": 2, "validate_every": 1},
        {"name": "selftrain", "method": {"kind": "bcp"}, "steps": 2, "validate_every": 1},
    ],
}


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    return path


def message(capsys: pytest.CaptureFixture[str]) -> str:
    captured = capsys.readouterr().err
    assert "Traceback" not in captured
    return captured


def test_unknown_key_in_a_recipe(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", str(recipe), "preproces.dims=2", "--out", str(tmp_path / "run")]) == 2
    assert "did you mean 'preprocess'?" in message(capsys)
    assert not (tmp_path / "run").exists()


def test_yaml_that_does_not_parse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "r.yaml").write_text("seed: [1,\nphases: }")
    assert run(["train", str(tmp_path / "r.yaml"), "--out", str(tmp_path / "run")]) == 2
    assert "is not YAML" in message(capsys)


def test_label_value_outside_the_classes(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_scan(source / "labels" / "p3_a.nii.gz", np.full((24, 24, 3), 7, np.uint8))
    assert prepare(source, tmp_path / "dataset") == 2
    assert "7" in message(capsys)
    assert not (tmp_path / "dataset").exists()


def test_image_and_label_of_different_geometry(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    label = np.zeros((24, 24, 3), np.uint8)
    label[4:9, 4:9] = 1
    write_scan(source / "labels" / "p2_a.nii.gz", label, np.diag([1.5, 1.5, 7.0, 1.0]))
    assert prepare(source, tmp_path / "dataset") == 2
    assert "p2_a" in message(capsys)
    assert not (tmp_path / "dataset").exists()


def test_truncated_file(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = source / "images" / "p1_a.nii.gz"
    path.write_bytes(path.read_bytes()[:-200])
    assert prepare(source, tmp_path / "dataset") == 2
    assert "p1_a" in message(capsys)
    assert not (tmp_path / "dataset").exists()


def test_every_problem_of_every_case_in_one_list(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_scan(source / "labels" / "p3_a.nii.gz", np.full((24, 24, 3), 7, np.uint8))
    write_scan(source / "images" / "p4_a.nii.gz", np.full((24, 24, 3), np.nan, np.float32))
    (source / "images" / "p5_a.nii.gz").write_bytes(b"not a scan")
    assert prepare(source, tmp_path / "dataset") == 2
    text = message(capsys)
    assert all(name in text for name in ("p3_a", "p4_a", "p5_a"))


def test_patient_in_two_splits(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = ["case,patient,split,labelled", "p0_a,same,train,yes", "p1_a,same,test,yes", "p2_a,other,val,yes"]
    (tmp_path / "cases.csv").write_text("\n".join(rows))
    code = run(
        ["prepare", str(source), "--out", str(tmp_path / "dataset"), "--table", str(tmp_path / "cases.csv"),
         "--classes", "background,square"]
    )  # fmt: skip
    assert code == 2
    assert "same" in message(capsys)
    assert not (tmp_path / "dataset").exists()


@pytest.fixture
def trained(source: Path, recipe: Path, tmp_path: Path) -> Path:
    assert prepare(source, tmp_path / "dataset") == 0
    out = tmp_path / "run"
    assert run(["train", str(recipe), f"data={tmp_path / 'dataset'}", "--out", str(out)]) == 0
    return out


def test_the_whole_path_and_what_it_refuses(
    trained: Path, recipe: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = f"data={tmp_path / 'dataset'}"
    for name in ("recipe.yaml", "manifest.json", "log.jsonl", "tensorboard", "last.safetensors", "report.html",
                 "first_batch.png", "model/model.yaml", "model/model.safetensors", "model/model_card.md",
                 "weights/best.safetensors", "weights/last.safetensors"):  # fmt: skip
        assert (trained / name).exists(), name
    assert list(trained.rglob("*.partial")) == []

    # an output folder that already holds a run
    before = (trained / "last.safetensors").read_bytes()
    assert run(["train", str(recipe), data, "--out", str(trained)]) == 2
    assert "--resume" in message(capsys)
    assert (trained / "last.safetensors").read_bytes() == before
    # another recipe on --resume
    assert run(["train", str(recipe), data, "seed=5", "--out", str(trained), "--resume"]) == 2
    assert "seed" in message(capsys)

    # evaluate and predict
    assert run(["evaluate", str(trained), "--data", str(tmp_path / "dataset")]) == 0
    summary = json.loads((trained / "evaluation" / "test" / "summary.json").read_text())
    assert 0 <= summary["classes"]["square"]["metrics"]["dice"]["mean"] <= 1
    scan = source / "images" / "p0_a.nii.gz"
    assert run(["predict", str(trained), "-i", str(scan), "-o", str(tmp_path / "mask.nii.gz")]) == 0
    mask, image = nib.load(tmp_path / "mask.nii.gz"), nib.load(scan)
    assert mask.shape == image.shape
    assert np.array_equal(mask.affine, image.affine)
    assert mask.get_data_dtype().kind == "u"

    # a checkpoint of another network: weights, and a resumed checkpoint
    weights = load_file(trained / "model" / "model.safetensors")
    save_file(dict(list(weights.items())[1:]), trained / "model" / "model.safetensors")
    capsys.readouterr()
    assert run(["predict", str(trained), "-i", str(scan), "-o", str(tmp_path / "m2.nii.gz")]) == 2
    assert "weights of another network" in message(capsys)
    assert not (tmp_path / "m2.nii.gz").exists()
    text = yaml.safe_load((trained / "recipe.yaml").read_text())
    text["network"]["features"] = [8, 4, 4, 4, 4]
    (trained / "recipe.yaml").write_text(yaml.safe_dump(text))
    wider = [data, "network.features=[8,4,4,4,4]", "--out", str(trained), "--resume"]
    assert run(["train", str(recipe), *wider]) == 2
    assert "weights of another network" in message(capsys)


def test_a_broken_scan_costs_one_line(
    trained: Path, source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (source / "images" / "p3_a.nii.gz").write_bytes(b"broken")
    capsys.readouterr()
    assert run(["predict", str(trained), "-i", str(source / "images"), "-o", str(tmp_path / "masks")]) == 2
    assert "p3_a" in message(capsys)
    assert len(list((tmp_path / "masks").glob("*.nii.gz"))) == 5


def test_methods_and_reproduce_list_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["methods", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert {"supervised", "bcp", "unimatch"} <= {row["name"] for row in rows}
    assert all(row["paper"] and row["needs"] and row["tasks"] for row in rows)
    assert run(["reproduce", "--list", "--json"]) == 0
    assert "bcp" in {row["name"] for row in json.loads(capsys.readouterr().out)}
    assert run(["reproduce", "nothing"]) == 2
    assert "allowed: bcp" in message(capsys)
