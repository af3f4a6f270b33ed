"""Distil and OFA on images with one class each, through `train`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn

from medkd.config.load import load_recipe, parse_recipe
from medkd.config.models import load_model
from medkd.config.recipe import Recipe
from medkd.data.image_files import png_bytes
from medkd.distill.loss_options import LossUnion
from medkd.distill.methods.distil import Distil
from medkd.distill.methods.forward import teacher_logits
from medkd.distill.options import DistilOptions
from medkd.engine.checkpoint import load_state
from medkd.engine.method import StepContext
from medkd.errors import InputError
from medkd.networks.classifier_options import ReusedHeadOptions, TinyCNNOptions, TorchvisionOptions
from medkd.networks.reused_head import ReusedHead
from medkd.runs.prepare_classification import prepare_classification
from medkd.runs.signals import store_signals
from medkd.runs.train import build, train

ROOT = Path(__file__).parents[2]
NAMES = ("bars", "blank", "dots")
SMALL = {"kind": "TinyCNN", "features": [3, 4]}
LARGE = {"kind": "TinyCNN", "features": [4, 8]}
TEACHER = {"name": "teacher", "method": {"kind": "supervised"}, "network": LARGE, "steps": 2}
MAPS = {"student": "stages.1", "teacher": "stages.1"}
LOSSES: dict[str, dict[str, Any]] = {
    "kd": {},
    "dkd": {},
    "dist": {},
    "pld": {},
    "cwd": MAPS,
    "fitnets": MAPS,
    "attention_transfer": MAPS,
    "mgd": {**MAPS, "mask": "channel", "ratio": 0.15},
    "reviewkd": {"student": ["stages.1", "stages.0"], "teacher": ["stages.1", "stages.0"]},
    "sp": MAPS,
    "rkd": MAPS,
    "crd": {**MAPS, "dim": 8},
    "simkd": {"teacher": "stages.1", "head": "head"},
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    for name in NAMES:
        (folder / "source" / name).mkdir(parents=True)
        for number in range(20):
            pixels = rng.integers(20, 60, (8, 8))
            if name == "bars":
                pixels[:, 2::3] += 150
            if name == "dots":
                pixels[2::3, 2::3] += 150
            (folder / "source" / name / f"{name}{number}.png").write_bytes(png_bytes(pixels.astype(np.uint8)))
    prepare_classification(folder / "source", folder / "data", split=(0.5, 0.3, 0.2))
    return folder / "data"


def recipe(data: Path, phases: list[dict[str, Any]], preprocess: dict[str, Any] | None = None, **values: Any) -> Recipe:
    tree: dict[str, Any] = {
        "task": "classification", "data": str(data), "network": SMALL, "phases": phases,
        "preprocess": {"size": [8, 8]} | (preprocess or {}),
        "labelled": {"size": 6}, "runtime": {"device": "cpu", "threads": 1},
    }  # fmt: skip
    return parse_recipe(tree | values)


def student(kind: str, steps: int = 2, **values: Any) -> dict[str, Any]:
    method = {"kind": "distil", "dry_size": 8, "losses": [{"kind": kind, **LOSSES[kind]}], **values}
    network = {"network": {"kind": "ReusedHead", "encoder": SMALL, "width": 8}} if kind == "simkd" else {}
    return {"name": "student", "method": method, "steps": steps, **network}


@pytest.fixture(scope="module")
def teacher(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("teacher") / "run"
    train(recipe(data, [TEACHER | {"steps": 20}]), out)
    return out


def test_the_list_of_losses_is_complete() -> None:
    union, _ = get_args(LossUnion)
    kinds = {options.model_fields["kind"].default: options for options in get_args(union)}
    assert {kind for kind, options in kinds.items() if "classification" in options.tasks} == set(LOSSES)


@pytest.mark.parametrize("kind", LOSSES)
def test_every_loss_teaches(kind: str, data: Path, teacher: Path) -> None:
    """Alone, from a live teacher: the student's first weights and every projector get gradient, the teacher none."""
    made = build(recipe(data, [student(kind, label_weight=0.0)], teacher=str(teacher)))
    (phase,) = made.phases
    method = phase.build(phase.networks or made.network)
    assert isinstance(method, Distil)
    method.prepare(phase.streams)
    method.train()
    output = method.step(
        "student", {"labelled": phase.streams["labelled"].batch(0)}, StepContext(0, 2, 0, 0, made.task)
    )
    output.loss.backward()
    first = next(p for n, p in method.student.named_parameters() if n.endswith("stages.0.0.weight"))
    assert first.grad is not None
    assert first.grad.abs().sum() > 0
    assert [n for n, p in method.losses.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for p in method.teacher.parameters())


def test_a_controller_learns_from_patients_that_the_student_does_not_see(data: Path, tmp_path: Path) -> None:
    """TGeo-KD: an image is held out of both phases, the log has its loss, and the controller does not ship."""
    phase = {"name": "student", "method": {"kind": "tgeo_kd", "classes": 3}, "steps": 4}
    made = recipe(data, [TEACHER | {"becomes": "teacher"}, phase], held_out={"size": 4, "patients": 5})
    setup = build(made)
    streams = setup.phases[1].streams
    seen = {name: {case for step in range(30) for case in streams[name].batch(step).case_ids} for name in streams}
    assert seen["held_out"] == setup.held_out()
    assert (len(seen["held_out"]), len(seen["labelled"])) == (5, 25)
    assert seen["held_out"].isdisjoint(seen["labelled"])
    assert {case.split for case in setup.dataset.cases if case.id in seen["held_out"]} == {"train"}
    assert streams["held_out"].batch(0).labels.shape == (4,)
    assert set(setup.phases[0].streams["labelled"].case_classes()) == seen["labelled"]

    train(made, tmp_path / "run")
    rows = [json.loads(line) for line in (tmp_path / "run/log.jsonl").read_text().splitlines()]
    assert {"alpha", "loss_held_out", "loss_distillation"} <= {key for row in rows for key in row}
    model = load_model(tmp_path / "run")
    assert model.network.state_dict().keys() == TinyCNNOptions(features=(3, 4)).build(2, 1, 3).state_dict().keys()
    with pytest.raises(InputError, match=r"held_out\.patients is 30, but .* has 30 labelled training patients"):
        build(recipe(data, [TEACHER | {"becomes": "teacher"}, phase], held_out={"patients": 30}))


def test_a_student_is_distilled_and_ships_alone(data: Path, tmp_path: Path) -> None:
    both = [{"kind": kind, **LOSSES[kind]} for kind in ("kd", "fitnets", "crd")]
    phase = student("kd") | {"method": {"kind": "distil", "dry_size": 8, "losses": both}}
    train(recipe(data, [TEACHER | {"becomes": "teacher"}, phase]), tmp_path / "run")
    state = load_state(tmp_path / "run/last.safetensors")["method"]
    assert state["losses.2.student_bank"].shape == (30, 8)  # a row for each labelled training image
    assert any(name.startswith("losses.1.regressor") for name in state)
    model = load_model(tmp_path / "run")
    assert model.network.state_dict().keys() == TinyCNNOptions(features=(3, 4)).build(2, 1, 3).state_dict().keys()


def test_ofa_makes_exits_for_one_answer_an_image(data: Path, tmp_path: Path) -> None:
    method = {"kind": "ofa", "classes": 3, "input_size": [8, 8], "width": 8}
    phase = {"name": "student", "method": method, "steps": 2}
    train(recipe(data, [TEACHER | {"becomes": "teacher"}, phase]), tmp_path / "run")
    state = load_state(tmp_path / "run/last.safetensors")["method"]
    heads = [value for name, value in state.items() if name.startswith("exits") and value.ndim == 2]
    assert [tuple(head.shape) for head in heads] == [(3, 8), (3, 8)]  # one an exit, no logit a pixel
    assert not any(name.startswith("exits") for name in load_model(tmp_path / "run").network.state_dict())


def test_simkd_ships_the_teachers_head(data: Path, teacher: Path, tmp_path: Path) -> None:
    """The head is the teacher's to the last bit, the projector is trained, and the model folder predicts with both."""
    made = recipe(data, [student("simkd", steps=3, label_weight=0.0)], teacher=str(teacher))
    train(made, tmp_path / "run")
    shipped, theirs = load_model(tmp_path / "run").network, load_model(teacher).network
    assert isinstance(shipped, ReusedHead)
    assert torch.equal(shipped.head.weight, theirs.get_submodule("head").weight)
    setup = build(made)
    before = setup.phases[-1].networks or setup.network
    assert not torch.equal(shipped.projector[0].weight, before(0).get_submodule("projector.0").weight)
    image = torch.rand(2, 1, 8, 8)
    with torch.no_grad():
        features = shipped.projector(_map(shipped, image))
        torch.testing.assert_close(shipped(image), shipped.head(features.mean((2, 3))))


def _map(network: ReusedHead, image: torch.Tensor) -> torch.Tensor:
    for stage in network.encoder.get_submodule("stages"):  # type: ignore[attr-defined]
        image = stage(image)
    return image


def test_a_student_equal_to_the_teacher_behind_an_identity_is_the_teacher() -> None:
    """The prediction that is deployed: W_t times the mean of P(f_s)."""
    torch.manual_seed(0)
    teacher = TinyCNNOptions(features=(4, 8)).build(2, 1, 3).eval()
    student = ReusedHeadOptions(encoder=TinyCNNOptions(features=(4, 8)), width=8).build(2, 1, 3).eval()
    assert isinstance(student, ReusedHead)
    student.encoder.load_state_dict({k: v for k, v in teacher.state_dict().items() if not k.startswith("head")})
    student.projector, student.head = nn.Identity(), teacher.get_submodule("head")  # type: ignore[assignment]
    image = torch.rand(2, 1, 8, 8)
    torch.testing.assert_close(student(image), teacher(image))


def test_the_cost_of_the_projector_is_that_of_the_card() -> None:
    """256 to 256 channels, r = 2: 212,992 weights without batch normalisation."""
    network = ReusedHeadOptions(encoder=TinyCNNOptions(features=(256,)), width=256).build(2, 1, 3)
    assert sum(p.numel() for p in network.projector.parameters() if p.ndim == 4) == 212_992


def test_what_simkd_refuses(data: Path, teacher: Path) -> None:
    with pytest.raises(InputError, match="the student is a TinyCNN; give"):
        Distil(
            TinyCNNOptions().build(2, 1, 3), TinyCNNOptions().build(2, 1, 3),
            DistilOptions(losses=[{"kind": "simkd", "teacher": "stages.2", "head": "head"}], label_weight=0.0),
        )  # fmt: skip
    narrow = student("simkd", label_weight=0.0) | {"network": {"kind": "ReusedHead", "encoder": SMALL, "width": 6}}
    made = build(recipe(data, [narrow], teacher=str(teacher)))
    with pytest.raises(InputError, match="maps 8 features to 3 classes; the student's head 6 to 3"):
        made.phases[0].build(made.phases[0].networks or made.network)
    with pytest.raises(InputError, match="simkd is published without a loss on the labels; say label_weight"):
        recipe(data, [student("simkd")], teacher=str(teacher))
    with pytest.raises(InputError, match="the last map of DenseNet is not known"):
        ReusedHeadOptions(encoder=TorchvisionOptions(name="densenet121")).build(2, 3, 3)


def test_segmentation_losses_are_refused(data: Path) -> None:
    with pytest.raises(InputError, match="losses has bpkd, which does not serve classification: it needs a label a"):
        recipe(data, [TEACHER | {"becomes": "teacher"}, student("kd") | {
            "method": {"kind": "distil", "losses": [{"kind": "bpkd"}]}
        }])  # fmt: skip


def changed(model: Path, folder: Path, **changes: Any) -> Path:
    folder.mkdir()
    tree = yaml.safe_load((model / "model/model.yaml").read_text())
    for key, value in changes.items():
        tree[key] = tree[key] | value if isinstance(value, dict) else value
    (folder / "model.yaml").write_text(yaml.safe_dump(tree))
    (folder / "model.safetensors").write_bytes((model / "model/model.safetensors").read_bytes())
    return folder


def asked(made: Recipe) -> tuple[Distil, Any]:
    setup = build(made)
    method = setup.phases[-1].build(setup.phases[-1].networks or setup.network)
    assert isinstance(method, Distil)
    return method, setup.phases[-1].streams["labelled"].batch(0)


def test_a_teacher_gets_images_of_its_own(data: Path, teacher: Path, tmp_path: Path) -> None:
    """It was trained on percentiles: its logits are those of the teacher alone, on images prepared as it wants them."""
    wide = changed(teacher, tmp_path / "wide", preprocess={"intensity": "percentile"})
    made = recipe(data, [student("kd")], teacher=str(wide))
    method, batch = asked(made)
    theirs = build(recipe(data, [student("kd")], {"intensity": "percentile"}, teacher=str(wide)))
    images = theirs.phases[-1].streams["labelled"].batch(0).image
    assert not torch.equal(images, batch.image)
    with torch.no_grad():
        torch.testing.assert_close(teacher_logits(method.teacher, batch), load_model(wide).network(images))


def test_classes_that_the_dataset_does_not_have_are_left_out(data: Path, tmp_path: Path, teacher: Path) -> None:
    torch.manual_seed(0)
    four = changed(teacher, tmp_path / "four", classes=["dots", "stars", "blank", "bars"])
    network = TinyCNNOptions(features=(4, 8)).build(2, 1, 4).eval()
    save_file(network.state_dict(), four / "model.safetensors")
    method, batch = asked(recipe(data, [student("kd")], teacher=str(four)))
    with torch.no_grad():
        raw = network(batch.image)
        torch.testing.assert_close(method.teacher(batch.image), raw[:, [3, 2, 0]])
        given = raw.softmax(1)[:, [3, 2, 0]]  # the probabilities, given that it is one of ours
        torch.testing.assert_close(method.teacher(batch.image).softmax(1), given / given.sum(1, keepdim=True))


def test_a_teacher_that_does_not_fit_is_refused(data: Path, teacher: Path, tmp_path: Path) -> None:
    other = changed(teacher, tmp_path / "classes", classes=["dots", "stars", "blank"])
    with pytest.raises(
        InputError, match=r"has the classes dots, stars, blank; the dataset .*: it knows nothing of bars"
    ):
        build(recipe(data, [student("kd")], teacher=str(other)))
    larger = changed(teacher, tmp_path / "size", preprocess={"size": [16, 16]})
    with pytest.raises(InputError, match=r"trained with preprocess\.size \(16, 16\), the recipe has \(8, 8\)"):
        build(recipe(data, [student("kd")], teacher=str(larger)))


def test_stored_signals_are_those_of_the_live_teacher(data: Path, teacher: Path, tmp_path: Path) -> None:
    done = store_signals(teacher, data, tmp_path / "signals", device="cpu")
    assert len(done.written) == 30
    answers = []
    for given in (teacher, tmp_path / "signals"):
        method, batch = asked(recipe(data, [student("kd")], teacher=str(given)))
        answers.append(teacher_logits(method.teacher, batch))
    torch.testing.assert_close(answers[0], answers[1])
    train(recipe(data, [student("pld", label_weight=0.0)], teacher=str(tmp_path / "signals")), tmp_path / "run")
    augmented = {"size": 6, "augment": {"preset": "light"}}
    with pytest.raises(InputError, match=r"labelled\.augment changes them \(preset, rotate"):
        build(recipe(data, [student("kd")], teacher=str(tmp_path / "signals"), labelled=augmented))


@pytest.mark.parametrize("path", sorted((ROOT / "configs/distill").glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_recipes_are_read(path: Path) -> None:
    load_recipe(path)
