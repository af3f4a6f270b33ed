"""The options of detectron2, with or without it: recipes are read, its absence is one message, configs run nothing."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cell_images import write_cells

from medkd.cli.app import run
from medkd.config.load import parse_recipe
from medkd.detection.detectors import options
from medkd.detection.detectors.detectron2_config import merged, read_config, read_network
from medkd.detection.detectors.options import Detectron2Options
from medkd.errors import InputError

ROOT = Path(__file__).parents[2]
PHASES = [{"name": "source", "steps": 1, "method": {"kind": "supervised_detection"}}]
REUPLOADS = {
    "detectron2",
    "pb1-detectron2",
    "sal-detectron2",
    "geoai-detectron2",
    "detectron2-cdo",
    "detectron2-layers",
}


def test_a_recipe_is_read_and_checked_without_detectron2_and_without_torch() -> None:
    code = (
        "import sys; from medkd.config.load import parse_recipe; "
        "r = parse_recipe({'task': 'detection', 'data': 'd', 'detector': {'kind': 'detectron2'}, "
        f"'phases': {PHASES!r}}}); "
        "assert r.detector.kind == 'detectron2'; assert not {'torch', 'detectron2'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_only_two_files_import_detectron2_and_only_build_imports_them() -> None:
    room = ROOT / "medkd"
    importers = {p.stem: re.findall(r"^( *)(?:from|import) detectron2", p.read_text(), re.MULTILINE)
                 for p in room.rglob("*.py")}  # fmt: skip
    assert {name for name, found in importers.items() if found} == {"detectron2_heads", "detectron2_rcnn"}
    users = [(p.stem, line) for p in room.rglob("*.py") for line in p.read_text().splitlines()
             if re.search(r"import.*detectron2_(heads|rcnn)|detectron2_(heads|rcnn) import", line)]  # fmt: skip
    assert {(name, line.startswith(" ")) for name, line in users} == {("options", True), ("detectron2_rcnn", False)}


def test_where_it_is_absent_one_message_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"not installed.*no-build-isolation.*facebookresearch/detectron2"):
        Detectron2Options().build(2, 3, 2)
    data = write_cells(tmp_path / "cells").root
    (tmp_path / "recipe.yaml").write_text(
        f"task: detection\ndata: {data}\ndetector: {{kind: detectron2}}\npreprocess: {{size: [64, 64]}}\n"
        "phases:\n- {name: source, steps: 1, method: {kind: supervised_detection}}\nruntime: {device: cpu}\n"
    )
    assert run(["train", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "out")]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "detectron2.git" in said
    assert "Traceback" not in said


def test_a_broken_installation_is_one_message_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: object())
    monkeypatch.setitem(sys.modules, "medkd.detection.detectors.detectron2_rcnn", None)
    with pytest.raises(InputError, match="detectron2 cannot be imported"):
        Detectron2Options().build(2, 3, 2)


def test_nothing_of_medkd_requires_detectron2_or_a_copy_of_it() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    asked = [*project["dependencies"], *(line for extra in extras for line in extra)]
    asked += importlib.metadata.requires("medkd") or []
    assert len(asked) > 20
    assert not [line for line in asked if "detectron2" in line.lower() or line.split(">")[0] in REUPLOADS]


def test_a_config_file_becomes_settings_with_its_bases(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "MODEL: {WEIGHTS: detectron2://x.pkl, RESNETS: {DEPTH: 50, NORM: BN}, MASK_ON: false}\n"
        "DATASETS: {TRAIN: ('ours_train',)}\nINPUT: {FORMAT: RGB, MIN_SIZE_TRAIN: (640, 800)}\n"
        "OUTPUT_DIR: /home/somebody/runs\nTEST: {DETECTIONS_PER_IMAGE: 30, EVAL_PERIOD: 10}\nVERSION: 2\n"
    )
    (tmp_path / "config.yaml").write_text("_BASE_: base.yaml\nMODEL: {RESNETS: {DEPTH: 101}}\n")
    made = Detectron2Options(config=str(tmp_path / "config.yaml"), settings={"MODEL": {"MASK_ON": True}})
    assert made.config is None
    assert made.settings == {
        "MODEL": {"RESNETS": {"DEPTH": 101, "NORM": "BN"}, "MASK_ON": True},
        "INPUT": {"FORMAT": "RGB"},
        "TEST": {"DETECTIONS_PER_IMAGE": 30},
    }
    assert Detectron2Options.model_validate(made.model_dump(mode="json")) == made
    recipe = {"task": "detection", "data": "d", "phases": PHASES}
    read = parse_recipe(recipe | {"detector": {"kind": "detectron2", "config": str(tmp_path / "config.yaml")}},
                        ["detector.settings.MODEL.RESNETS.DEPTH=34"])  # fmt: skip
    assert read.detector.settings["MODEL"]["RESNETS"] == {"DEPTH": 34, "NORM": "BN"}  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: !!python/object/apply:os.getcwd []", "plain YAML"),
        ("[1, 2]", "holds list"),
        ("_BASE_: config.yaml\nMODEL: {}", "more than 10"),
        ("_BASE_: gone.yaml", "gone.yaml cannot be read"),
        ("VERSION: 1\nMODEL: {}", "VERSION 1"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_network(tmp_path / "config.yaml")
    tree = {"task": "detection", "data": "d", "phases": PHASES}
    with pytest.raises(InputError, match=message):
        parse_recipe(tree | {"detector": {"kind": "detectron2", "config": str(tmp_path / "config.yaml")}})


def test_merging_changes_neither_tree() -> None:
    base, changes = {"a": {"b": 1, "c": [1]}, "d": 2}, {"a": {"b": 3}, "d": {"e": 4}}
    assert merged(base, changes) == {"a": {"b": 3, "c": [1]}, "d": {"e": 4}}
    assert base == {"a": {"b": 1, "c": [1]}, "d": 2}
    assert changes == {"a": {"b": 3}, "d": {"e": 4}}


def test_a_missing_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot be read"):
        read_config(tmp_path / "no.yaml")


def test_the_pages_the_message_and_the_container_install_it_alike() -> None:
    """One way, in four places; and the container's commit is the one that the log was made with."""
    container = (ROOT / "docker" / "detectron2.Dockerfile").read_text()
    pages = [container, (ROOT / "README.md").read_text(), (ROOT / "docs" / "detection.md").read_text()]
    for text in (*pages, options.INSTALL_DETECTRON2):
        for part in (
            "'setuptools<81' wheel",
            "--no-build-isolation",
            "git+https://github.com/facebookresearch/detectron2",
        ):
            assert part in text
    (commit,) = re.findall(r"^ARG DETECTRON2=([0-9a-f]{40})$", container, re.MULTILINE)
    assert commit in (ROOT / "docs" / "results" / "detectron2_tests.log").read_text()
