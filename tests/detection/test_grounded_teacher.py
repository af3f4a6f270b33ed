"""Grounded Teacher and its baselines on a tiny detector: sets of labels, geometry, resume, the source-free guard, and
the mistakes of the published code (card section 9)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from tiny_sites import Site, Unreadable, context, detector, same, started, tensors
from torch import nn

from medkd.data.targets import Detections, Target
from medkd.detection.detectors.protocol import RoIs
from medkd.detection.grounded_teacher import GroundedTeacher
from medkd.detection.mean_teacher import MeanTeacherDetector
from medkd.detection.relation_file import matrix_text, read_matrix
from medkd.detection.relational import RelationalContext
from medkd.detection.source_free_options import (
    AdaBNOptions,
    DetectionMeanTeacherOptions,
    GroundedTeacherOptions,
    StaticLabels,
    StaticLabelsOptions,
)
from medkd.errors import InputError

EAGER = {"threshold": 0.1, "decay": 0.9}  # an untrained detector is sure of nothing
STATIC = StaticLabels(threshold=0.1)
GT = GroundedTeacherOptions(**EAGER, static=STATIC, mixing=1.0, crop_side=8, bank=5)
PLAIN = GroundedTeacherOptions(**EAGER, static=STATIC, mixing=0.0, semantic_loss="none")
ALL = [
    GT,
    DetectionMeanTeacherOptions(**EAGER),
    StaticLabelsOptions(static=StaticLabels(threshold=0.1, until=float("inf"))),
]
NAMES = [o.kind for o in ALL]


def expert(path: Path, **values: Any) -> dict[str, Any]:
    """Boxes for case0; case1 is not in the file."""
    rows = [{"image_id": "case0", "category_id": 1, "bbox": [4, 6, 20, 16], "score": 0.9}]
    path.write_text(json.dumps(rows))
    return {"file": str(path), "classes": ("a", "b"), **values}


@pytest.mark.parametrize("options", ALL, ids=NAMES)
def test_every_weight_learns_and_nothing_is_skipped(options: Any) -> None:
    run = started(options)
    before = tensors(run.method.student)
    for _ in range(4):
        run.train_one()
    after = tensors(run.method.student)
    assert run.skipped == 0
    boxes = ("bbox_pred",)  # pseudo-boxes of a teacher train no regression
    still = [n for n, _ in run.method.student.named_parameters() if torch.equal(before[n], after[n])]
    assert all(any(b in n for b in boxes) for n in still), still


@pytest.mark.parametrize("options", ALL, ids=NAMES)
def test_labels_are_never_read(options: Any) -> None:
    """The published loader reads and copies the target's true boxes. Here reading one raises."""
    one, other = started(options), started(options, site=Site(label=Unreadable()))
    for _ in range(2):
        one.train_one()
        other.train_one()
    assert same(tensors(one.method), tensors(other.method))


@pytest.mark.parametrize("options", ALL, ids=NAMES)
def test_resume_is_exact_with_both_matrices_and_the_banks(options: Any) -> None:
    """The published code loads the target's matrix over the source's and never restores the target's."""
    whole, first = started(options), started(options)
    for _ in range(4):
        whole.train_one()
    for _ in range(2):
        first.train_one()
    second = started(options)
    second.restore(first.state())
    for _ in range(2):
        second.train_one()
    assert same(tensors(second.method), tensors(whole.method))
    if isinstance(whole.method, GroundedTeacher):
        matrices = [whole.method.context(n).matrix() for n in ("source", "target")]
        assert all(m.any() for m in matrices)
        assert not torch.equal(*matrices)


def test_the_teacher_stays_in_eval_mode_and_is_the_average() -> None:
    run = started(DetectionMeanTeacherOptions(threshold=0.1, decay=0.9), steps=2)
    method = run.method
    assert isinstance(method, MeanTeacherDetector)
    norms = [m for m in method.teacher.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert not any(m.training for m in method.teacher.modules())
    before = tensors(method.teacher.network)
    method.teacher.network.predict(Site().batch(0).image)
    assert same(before, tensors(method.teacher.network))
    run.train_one()
    student = tensors(method.student)
    for name, value in tensors(method.teacher.network).items():
        if value.is_floating_point():
            assert torch.allclose(value, 0.9 * before[name] + 0.1 * student[name], atol=1e-6), name
        else:
            assert torch.equal(value, student[name])
    assert not any(p.requires_grad for p in method.teacher.parameters())


def test_the_start_is_the_source_model() -> None:
    method = started(GT).method
    assert isinstance(method, GroundedTeacher)
    for network in (method.student, method.teacher.network, method.source.network):
        assert same(tensors(network), tensors(detector()))


def test_without_matrix_mixing_and_loss_it_is_the_mean_teacher_with_static_labels() -> None:
    one, other = started(PLAIN), started(DetectionMeanTeacherOptions(**EAGER, static=STATIC))
    for _ in range(3):
        one.train_one()
        other.train_one()
    assert same(tensors(one.method.student), tensors(other.method.student))


def test_one_class_is_the_mean_teacher_to_the_last_bit_and_says_so() -> None:
    """The documented fact about every published medical run: with one class the module does nothing."""
    with pytest.warns(UserWarning, match="mixes nothing and weights nothing"):
        one = started(GT, classes=1)
    other = started(DetectionMeanTeacherOptions(**EAGER, static=STATIC), classes=1)
    for _ in range(3):
        one.train_one()
        other.train_one()
    assert same(tensors(one.method.student), tensors(other.method.student))


def test_with_several_classes_the_module_changes_the_training(tmp_path: Path) -> None:
    """The tiny detector calls everything class 1; the expert sees both, and the source confused one with the other."""
    (tmp_path / "m.json").write_text("[[0.9, 0.1], [0.4, 0.6]]")
    places = {0: [4, 6, 20, 16], 1: [28, 28, 16, 16]}
    rows = [
        {"image_id": f"case{i}", "category_id": k, "bbox": box, "score": 0.9}
        for i in range(2)
        for k, box in places.items()
    ]
    (tmp_path / "e.json").write_text(json.dumps(rows))
    theirs = {"file": str(tmp_path / "e.json"), "classes": ("a", "b"), "weight": 1.0}
    given = {**EAGER, "static": STATIC, "crop_side": 8, "expert": theirs, "source_matrix": str(tmp_path / "m.json")}
    kinds = ({"mixing": 1.0}, {"mixing": 0.0, "semantic_loss": "none"}, {"mixing": 0.0})
    runs = [started(GroundedTeacherOptions(**given, **k)) for k in kinds]
    for run in runs:
        for _ in range(4):
            run.train_one()
    a, b, c = (tensors(run.method.student) for run in runs)
    assert not same(a, b)
    assert not same(b, c)
    assert not same(a, c)


def test_the_expert_is_a_set_of_its_own(tmp_path: Path) -> None:
    options = GroundedTeacherOptions(**EAGER, expert=expert(tmp_path / "e.json"))
    method = started(options).method
    assert isinstance(method, GroundedTeacher)
    alone = started(GroundedTeacherOptions(**EAGER)).method
    batch = Site().batch(0)
    sets = method.label_sets(batch, context())
    assert [s.source for s in sets] == ["teacher", "expert", "static"][: len(sets)]
    (teacher, theirs), reference = sets[:2], alone.label_sets(batch, context())[0]
    assert theirs.targets[0].boxes.tolist() == [[4, 6, 24, 22]]
    assert theirs.targets[0].regress
    assert theirs.targets[1] is None  # no opinion: not "nothing there"
    for mine, before in zip(teacher.targets, reference.targets):
        assert (mine is None) == (before is None)
        assert mine is None or torch.equal(mine.boxes, before.boxes)
        assert mine is None or not mine.regress


def test_the_experts_boxes_follow_the_view(tmp_path: Path) -> None:
    method = started(GroundedTeacherOptions(**EAGER, expert=expert(tmp_path / "e.json"))).method
    batch = Site().batch(0)
    batch.view["matrix"][0] = torch.tensor([[-1.0, 0, 48], [0, 1, 0], [0, 0, 1]])
    sets = {s.source: s for s in method.label_sets(batch, context())}
    assert sets["expert"].targets[0].boxes.tolist() == [[24, 6, 44, 22]]


def test_an_expert_of_some_classes_teaches_the_others_as_the_teacher_does(tmp_path: Path) -> None:
    """An expert that looks for class 1 alone: the teacher's boxes of class 0 are no background in its set, unless they
    are the expert's object; those of class 1 are the expert's business."""
    given = expert(tmp_path / "e.json", covers=("b",), regress=False)
    method = started(GroundedTeacherOptions(**EAGER, expert=given)).method
    assert isinstance(method, GroundedTeacher)
    boxes = torch.tensor([[30.0, 30, 40, 40], [5, 6, 24, 22], [10, 30, 20, 40]])
    mine = Detections(boxes, torch.tensor([0, 0, 1]), torch.tensor([0.9, 0.8, 0.9]))
    teacher, theirs = method.live_sets([mine, mine], Site().batch(0))
    assert theirs.targets[0].boxes.tolist() == [[4, 6, 24, 22], [30, 30, 40, 40]]
    assert theirs.targets[0].labels.tolist() == [1, 0]
    assert not theirs.targets[0].regress
    assert theirs.targets[1] is None  # no opinion on the image
    assert len(teacher.targets[0]) == 3


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"covers": ("c",)}, "covers names c"), ({"covers": ()}, "no class"),
        ({"covers": ("a",)}, "set expert.regress to false"),
        ({"covers": ("a",), "fusion": "agreement"}, "would remove all their boxes"),
    ],
)  # fmt: skip
def test_what_an_expert_of_some_classes_may_not(tmp_path: Path, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GroundedTeacherOptions(**EAGER, expert=expert(tmp_path / "e.json", **values))


@pytest.mark.parametrize("fusion", ["weighted", "agreement"])
def test_a_fused_expert_needs_no_second_set(tmp_path: Path, fusion: str) -> None:
    method = started(GroundedTeacherOptions(**EAGER, expert=expert(tmp_path / "e.json", fusion=fusion))).method
    assert isinstance(method, GroundedTeacher)
    mine = Detections(
        torch.tensor([[4.0, 6, 24, 22], [30, 30, 40, 40]]), torch.tensor([1, 0]), torch.tensor([0.9, 0.8])
    )
    (both,) = method.live_sets([mine, mine], Site().batch(0))
    assert len(both.targets[0]) == (2 if fusion == "weighted" else 1)
    assert len(both.targets[1]) == 2


def test_static_labels_fade_and_the_burn_in_waits_for_the_teacher() -> None:
    method = started(GroundedTeacherOptions(**EAGER, static=StaticLabels(weight=2.0, threshold=0.1), burn_in=3)).method
    assert isinstance(method, GroundedTeacher)
    weights = [method.static_weight(context(step, 30)) for step in (0, 2, 5, 9, 10, 29)]
    assert weights[:3] == pytest.approx([2.0, 2.0, 1.0])
    assert 0 < weights[3] < 0.06
    assert weights[4:] == [0.0, 0.0]
    sets = {step: [s.source for s in method.label_sets(Site().batch(0), context(step, 30))] for step in (0, 5, 20)}
    assert sets == {0: ["static"], 5: ["teacher", "static"], 20: ["teacher"]}


def test_each_context_counts_its_own_labels_once_a_step() -> None:
    run = started(GT)
    method = run.method
    assert isinstance(method, GroundedTeacher)
    run.train_one()
    assert [int(method.context(n).updates) for n in ("source", "target")] == [1, 1]
    batch, sets = Site().batch(9), method.label_sets(Site().batch(9), context(9, 12))
    logits = torch.randn(6, 3, generator=torch.Generator().manual_seed(0))
    gt = torch.tensor([0, 1, 1, 0, 2, 2])
    rois = RoIs(logits, gt, nn.functional.one_hot(gt, 3).float(), torch.ones(6))
    for _ in range(2):  # two micro-batches
        method.classification(rois, sets[0], context(9, 12))
    counted = method.context("target").counts(gt, logits.argmax(1))
    assert torch.equal(method.context("target").pending, 2 * counted)
    assert len(batch) == 2


def test_the_shipped_matrix_is_the_sources(tmp_path: Path) -> None:
    shipped = RelationalContext(2)
    shipped.start_from(torch.tensor([[0.9, 0.1], [0.4, 0.6]]))
    (tmp_path / "m.json").write_text(matrix_text(shipped.matrix()))
    method = started(GT.model_copy(update={"source_matrix": str(tmp_path / "m.json")})).method
    assert isinstance(method, GroundedTeacher)
    assert torch.allclose(method.matrix("teacher", context()), shipped.matrix())  # until the target has shown itself
    for text in ("[[1, 0]]", "[[0.5, 0.1], [0, 1]]", "no", "[[1, -1], [0, 1]]"):
        (tmp_path / "bad.json").write_text(text)
        with pytest.raises(InputError, match="source_matrix"):
            read_matrix(tmp_path / "bad.json", (2, 2))
    with pytest.raises(InputError, match="cannot be read"):
        read_matrix(tmp_path / "none.json", (2, 2))


def test_the_log_holds_the_matrix() -> None:
    run = started(GT, steps=3)
    method = run.method
    assert isinstance(method, GroundedTeacher)
    for _ in range(2):
        run.train_one()
    met = method.matrix("teacher", context(2, 3))  # the next step's labels meet it
    run.train_one()
    (row,) = [row for row in run.tracker.rows if row["kind"] == "train"]
    assert [[row[f"context_{i}_{j}"] for j in range(2)] for i in range(2)] == met.tolist()
    assert met.any()


def test_a_skipped_step_leaves_matrices_and_banks() -> None:
    run = started(GT)
    run.train_one()
    before = tensors(run.method)
    kept = run.method.options
    huge = started(GT)
    huge.restore(run.state())

    class Broken(Site):
        def batch(self, global_step: int):
            batch = super().batch(global_step)
            batch.view["strong"].fill_(float("nan"))
            return batch

    object.__setattr__(huge.phase, "streams", {"unlabelled": Broken()})
    huge.train_one()
    assert huge.skipped == 1
    after = tensors(huge.method)
    watched = [n for n in before if n.startswith(("contexts", "banks")) and not n.endswith("pending")]
    assert watched
    assert [n for n in watched if not torch.equal(before[n], after[n])] == []
    assert kept is GT


def test_pull_back_moves_the_student_towards_the_teacher() -> None:
    for share in (0.5, 1.0):
        run = started(DetectionMeanTeacherOptions(**EAGER, pull_back=share, period=2))
        plain = started(DetectionMeanTeacherOptions(**EAGER))
        for _ in range(2):
            run.train_one()
            plain.train_one()
        for name, p in run.method.student.named_parameters():
            old = dict(plain.method.student.named_parameters())[name]
            teacher = dict(run.method.teacher.network.named_parameters())[name]
            assert torch.allclose(p, (1 - share) * old + share * teacher, atol=1e-6)


def test_adabn_is_the_average_of_the_batches() -> None:
    run = started(AdaBNOptions(), steps=3)
    weights = {n: p.detach().clone() for n, p in run.method.student.named_parameters()}
    inputs: list[torch.Tensor] = []
    norm = next(m for m in run.method.student.modules() if isinstance(m, nn.BatchNorm2d))
    hook = norm.register_forward_pre_hook(lambda _, given: inputs.append(given[0].mean((0, 2, 3))))
    for _ in range(3):
        run.train_one()
    hook.remove()
    assert torch.allclose(norm.running_mean, torch.stack(inputs).mean(0), atol=1e-5)
    assert all(torch.equal(weights[n], p) for n, p in run.method.student.named_parameters())
    with pytest.warns(UserWarning, match="no batch normalisation"):
        AdaBNOptions().build(lambda _: detector(norm="group"))


def test_options_that_would_learn_nothing_are_refused() -> None:
    for values in ({"burn_in": 3}, {"teacher_weight": 0.0}):
        with pytest.raises(ValidationError, match=r"static|nothing"):
            DetectionMeanTeacherOptions(**values)


def test_a_target_survives_the_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Mixing makes new images and targets: the batch stays as it was."""
    run = started(GT)
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    batch = Site().batch(0)
    monkeypatch.setattr(Site, "batch", lambda self, step: batch)
    seen = [(v, v.clone()) for v in (batch.image, batch.view["strong"])]
    for _ in range(3):
        run.train_one()
    assert all(torch.equal(now, before) for now, before in seen)
    assert isinstance(Target(torch.zeros(0, 4), torch.zeros(0)), Target)
