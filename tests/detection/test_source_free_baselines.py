"""IRG, PETS, LPLD and the options of the mean teacher by hand: card sfod_baselines.md, section 6."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tiny_sites import CPU, SMALL, NoScore, Site, context, detector, same, started, tensors
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.data.targets import Detections
from medkd.detection.baseline_options import IrgOptions, LpldOptions, PetsOptions
from medkd.detection.detectors.options import RetinaNetOptions
from medkd.detection.detectors.protocol import two_stage
from medkd.detection.irg import RelationGraph, contrast, divergence, positives, relation
from medkd.detection.lpld import distilled, low_confidence
from medkd.detection.pets import Pets, exchange
from medkd.detection.pseudo_labels import fused
from medkd.detection.region_teacher import Taught
from medkd.detection.source_free_options import AdaBNOptions, DetectionMeanTeacherOptions, StaticLabels
from medkd.engine.fit import fit
from medkd.engine.options import Optimizer
from medkd.engine.phases import Phase
from medkd.engine.randomness import generator
from medkd.errors import InputError

EAGER = {"threshold": 0.1, "decay": 0.9}


def random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=generator("baselines", *shape))


# 1. the teacher's average


def test_the_average_of_a_period_moves_at_its_end_alone() -> None:
    run = started(DetectionMeanTeacherOptions(threshold=0.1, decay=0.75, every=3), steps=6)
    teacher = run.method.teacher.network
    start = tensors(teacher)
    for step in range(1, 7):
        before = tensors(teacher)
        run.train_one()
        assert same(tensors(teacher), before) == (step % 3 != 0)
        if step == 3:
            student = dict(run.method.student.named_parameters())
            for name, p in teacher.named_parameters():
                torch.testing.assert_close(p, 0.75 * start[name] + 0.25 * student[name])


@pytest.mark.parametrize(("decay", "left"), [(0.9, 0.3487), (0.75, 0.0563)])
def test_what_is_left_of_the_source_after_ten_periods(decay: float, left: float) -> None:
    """IRG and LPLD with a constant student: teacher_n - s = keep^n (teacher_0 - s)."""
    run = started(DetectionMeanTeacherOptions(threshold=0.1, decay=decay, every=1))
    name, p = next(iter(run.method.teacher.network.named_parameters()))
    start, constant = p.detach().clone(), {}
    with torch.no_grad():
        for own in run.method.student.parameters():
            own.add_(1.0)
    constant = dict(run.method.student.named_parameters())[name]
    for _ in range(10):
        run.method.teacher.update(run.method.student)
    share = (p - constant) / (start - constant)
    assert torch.allclose(share, torch.full_like(share, left), atol=1e-4)


# 2. Unbiased Teacher, simple-SFOD


@pytest.mark.parametrize("regress", [False, True])
def test_pseudo_boxes_train_the_regression_only_if_asked(regress: bool) -> None:
    """Unbiased Teacher: exactly 0; simple-SFOD keeps it."""
    run = started(DetectionMeanTeacherOptions(**EAGER, regress=regress))
    batch = {"unlabelled": Site().batch(0)}
    run.method.step("student", batch, context()).loss.backward()
    moved = [
        bool(p.grad.any())
        for name, p in run.method.student.named_parameters()
        if "bbox_pred" in name and p.grad is not None
    ]
    assert moved
    assert all(moved) if regress else not any(moved)


# 4. and 5. LPLD

TEACHER, STUDENT = torch.tensor([[3.0, 0, 2]]), torch.tensor([[1.0, 0, 2]])


def test_the_distillation_by_hand() -> None:
    assert TEACHER[:, :2].softmax(1)[0].tolist() == pytest.approx([0.952574, 0.047426], abs=1e-6)
    assert STUDENT.softmax(1)[0].tolist() == pytest.approx([0.244728, 0.090031, 0.665241], abs=1e-6)
    assert float(distilled(STUDENT, TEACHER, torch.tensor([0.0]))) == pytest.approx(0.1264167, abs=1e-6)
    assert float(distilled(STUDENT, TEACHER, torch.tensor([0.5]))) == pytest.approx(0.0632083, abs=1e-6)
    assert float(distilled(STUDENT, TEACHER, torch.tensor([1.0]))) == 0.0
    assert float(distilled(TEACHER, TEACHER, torch.tensor([0.0]))) > 0.01  # the target has no background
    nothing = distilled(STUDENT[:0].requires_grad_(), TEACHER[:0], torch.zeros(0))
    nothing.backward()
    assert float(nothing.detach()) == 0.0


def test_which_proposals_are_distilled() -> None:
    sure = torch.tensor([[0.0, 0, 10, 10]])
    moved = torch.tensor([[0.0, 0, 10, 4.1], [0, 0, 10, 4.0], [50, 50, 60, 60], [50, 50, 60, 60]])  # IoU .41, .40, 0
    logits = torch.tensor([[3.0, 0, 2], [3, 0, 2], [1, 0, 2], [3, 0, 9]])  # third: .73 of the foreground; last: .997 bg
    assert low_confidence(logits, moved, sure, 0.4, 0.9, 0.99).tolist() == [False, True, False, False]
    assert low_confidence(logits, moved, sure[:0], 0.4, 0.9, 0.99).tolist() == [True, True, False, False]


def test_background_stays_and_objects_move() -> None:
    net: Any = detector()
    scene = net.eval().scene(Site().batch(0).image)
    logits, deltas = scene.read(scene.proposals)
    found = scene.moved(scene.proposals, logits, deltas)
    stays = torch.tensor([[0.0, 0, 9]]).repeat(len(logits), 1)
    assert torch.equal(scene.moved(scene.proposals, stays, deltas), torch.cat(scene.proposals))
    assert not torch.equal(found, torch.cat(scene.proposals))
    for label in (0, 1):  # the column of its class, of torchvision's boxes with background first
        one = F.one_hot(torch.full((len(logits),), label), 3).float()
        decoded = net.roi_heads.box_coder.decode(deltas, scene.proposals)[:, label + 1]
        assert torch.equal(scene.moved(scene.proposals, one, deltas), decoded.clamp(0, 48))


@pytest.mark.parametrize(
    "options", [LpldOptions(**EAGER, foreground_min=0.5), IrgOptions(**EAGER, width=8)], ids=["lpld", "irg"]
)
def test_the_terms_of_the_regions_reach_the_student_alone(options: Any) -> None:
    run = started(options)
    output = run.method.step("student", {"unlabelled": Site().batch(0)}, context())
    added = [value for name, value in output.logs.items() if name in ("loss_low", "loss_agreement", "loss_contrast")]
    assert added
    assert all(float(value) > 0 for value in added)
    output.loss.backward()
    assert all(p.grad is None for p in run.method.teacher.parameters())
    assert any(p.grad.any() for n, p in run.method.student.named_parameters() if "box_head" in n)
    assert run.method.taught is None
    names = {n.split(".")[0] for n, p in run.method.named_parameters() if p.grad is not None}
    assert names == ({"student", "graph"} if isinstance(options, IrgOptions) else {"student"})
    assert set(run.method.candidates()) == {"student", "teacher"}  # the graph does not ship


@pytest.mark.parametrize(
    "options", [LpldOptions(**EAGER, foreground_min=0.5), IrgOptions(**EAGER, width=8)], ids=["lpld", "irg"]
)
def test_where_nothing_is_proposed_the_terms_are_there_and_zero(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ranks average what they log, so all of them must name the same terms; an image without proposals is no error."""
    run = started(options)
    look = run.method.teacher.network.scene

    def without(images: Tensor, left: int = 0) -> Any:
        scene = look(images)
        scene.proposals = [p[:left] if i == 0 else p[:0] for i, p in enumerate(scene.proposals)]
        return scene

    names = {f"loss_{term}" for term in run.method.terms}
    assert [len(d) for d in without(Site().batch(0).image).detections(0.05)] == [0, 0]
    monkeypatch.setattr(run.method.teacher.network, "scene", without)
    logs = run.method.step("student", {"unlabelled": Site().batch(0)}, context()).logs
    assert {name: float(logs[name]) for name in names} == dict.fromkeys(names, 0.0)
    monkeypatch.setattr(run.method.teacher.network, "scene", lambda images: without(images, 5))
    output = run.method.step("student", {"unlabelled": Site().batch(0)}, context())
    assert names <= output.logs.keys()
    assert torch.isfinite(output.loss)


def test_the_burn_in_ends_with_a_copy_also_where_the_average_moves_once_a_period() -> None:
    options = DetectionMeanTeacherOptions(**EAGER, burn_in=4, every=3, static=StaticLabels(threshold=0.1))
    run = started(options, steps=9)
    copied = []
    for _ in range(9):
        run.train_one()
        copied.append(same(tensors(run.method.teacher.network), tensors(run.method.student)))
    assert copied == [step == 6 for step in range(1, 10)]  # the first average after four updates


def test_one_stage_detectors_and_one_class_are_told() -> None:
    dense = RetinaNetOptions(backbone=SMALL.backbone, anchor_scale=4).build(2, 3, 2)
    for options in (LpldOptions(), IrgOptions()):
        with pytest.raises(InputError, match=r"no regions of interest.*faster_rcnn"):
            options.build(lambda _: dense)
    with pytest.warns(UserWarning, match="with one class"):
        LpldOptions().build(lambda _: detector(classes=1))


# 8. PETS


def test_two_exchanges_restore_both() -> None:
    one, other = detector(), detector()
    with torch.no_grad():
        for value in [*other.parameters(), *(b for b in other.buffers() if b.is_floating_point())]:
            value.add_(1.0)
    before = tensors(one), tensors(other)
    exchange(one, other)
    assert same(tensors(one), before[1])
    assert same(tensors(other), before[0])
    exchange(one, other)
    assert same(tensors(one), before[0])
    assert same(tensors(other), before[1])


def test_fused_boxes_lie_between_their_members() -> None:
    one = Detections(torch.tensor([[0.0, 0, 10, 10], [30, 30, 40, 40]]), torch.tensor([0, 1]), torch.tensor([0.9, 0.8]))
    other = Detections(
        torch.tensor([[1.0, 2, 11, 9], [60, 60, 70, 70]]), torch.tensor([0, 1]), torch.tensor([0.6, 0.8])
    )
    both = fused(one, other, "weighted")
    low, high = torch.minimum(one.boxes[0], other.boxes[0]), torch.maximum(one.boxes[0], other.boxes[0])
    assert (both.boxes[0] >= low).all()
    assert (both.boxes[0] <= high).all()
    alone = fused(one, one, "weighted")
    assert torch.equal(alone.labels, one.labels)
    torch.testing.assert_close(alone.boxes, one.boxes)
    torch.testing.assert_close(alone.scores, one.scores)


def test_the_exchange_comes_once_a_period_and_the_moving_teacher_averages_the_exchanged_student() -> None:
    run, plain = started(PetsOptions(**EAGER, period=2)), started(PetsOptions(**EAGER, period=100))
    assert isinstance(run.method, Pets)
    source = tensors(run.method.student)
    run.train_one()
    plain.train_one()
    assert same(tensors(run.method), tensors(plain.method))
    assert same(tensors(run.method.static.network), source)
    teacher = tensors(run.method.teacher.network)
    run.train_one()
    plain.train_one()
    assert same(tensors(run.method.student), source)  # what was static
    assert same(tensors(run.method.static.network), tensors(plain.method.student))  # what was learnt
    for name, p in run.method.teacher.network.named_parameters():
        torch.testing.assert_close(p, 0.9 * teacher[name] + 0.1 * source[name])


def test_a_box_that_one_teacher_alone_is_sure_of_is_no_label(monkeypatch: pytest.MonkeyPatch) -> None:
    method: Any = started(PetsOptions(threshold=0.7)).method
    shared = [[0.0, 0, 10, 10], 0.9]
    moving = Detections(torch.tensor([shared[0], [30.0, 30, 40, 40]]), torch.tensor([0, 1]), torch.tensor([0.9, 0.95]))
    static = Detections(torch.tensor([shared[0]]), torch.tensor([0]), torch.tensor([0.6]))
    monkeypatch.setattr(method.teacher.network, "predict", lambda images, threshold: [moving])
    monkeypatch.setattr(method.static.network, "predict", lambda images, threshold: [static])
    (found,) = method.sure(method.teacher, 0.7, torch.zeros(1, 3, 48, 48))
    assert found.boxes.tolist() == [shared[0]]
    assert found.scores.tolist() == pytest.approx([0.75])


# 9. AdaBN


def test_adabn_again_gives_the_same_and_as_a_phase_it_hands_its_statistics_over() -> None:
    """simple-SFOD: a pass of AdaBN, then the mean teacher from there."""

    class Two(Site):
        def batch(self, global_step: int) -> Any:
            return super().batch(global_step % 2)

    once, twice = (started(AdaBNOptions(), steps=steps, site=Two()) for steps in (2, 4))
    for run in (once, twice):
        for _ in range(run.phase.steps):
            run.train_one()
    a, b = tensors(once.method.student), tensors(twice.method.student)
    for name in a:
        if "tracked" not in name:
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)
    seen: list[dict[str, Tensor]] = []

    def build(networks: Any) -> Any:
        method = DetectionMeanTeacherOptions(**EAGER).build(networks)
        seen.extend([tensors(method.student), tensors(method.teacher.network)])
        return method

    rest = {"optimizer": Optimizer(lr=0.01), "hand_over": "last"}
    phases = [
        Phase("adabn", AdaBNOptions().build, 2, {"unlabelled": Two()}, **rest),
        Phase("adapt", build, 1, {"unlabelled": Two()}, **rest),
    ]
    fit(phases, lambda _: detector(), NoScore(), CPU, 0)
    assert same(seen[0], a)
    assert same(seen[1], a)


# 12. IRG


def test_a_relation_is_a_distribution_and_follows_the_order_of_the_regions() -> None:
    torch.manual_seed(0)
    graph, features, order = RelationGraph(6, 4), random(5, 6).relu(), torch.tensor([3, 0, 4, 2, 1])
    related, refined = graph(features)
    assert (related >= 0).all()
    torch.testing.assert_close(related.sum(1), torch.ones(5))
    other, shuffled = graph(features[order])
    torch.testing.assert_close(other, related[order][:, order])
    torch.testing.assert_close(shuffled, refined[order])


def test_a_relation_and_its_positives_by_hand() -> None:
    related = relation(torch.tensor([[1.0, 0], [0, 1]]), torch.tensor([[1.0, 1], [3, 0], [-2, 1]]))
    torch.testing.assert_close(related, torch.tensor([[1 / 14, 9 / 14, 4 / 14], [0.5, 0, 0.5]]))
    square = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.0, 0.4], [0.3, 0.5, 0.2]])
    # rows scaled: 0, 1, 1/3; 1, 0, 2/3; 1/3, 1, 0; and the diagonal
    assert positives(square).tolist() == [[True, True, False], [True, True, True], [False, True, True]]


def test_with_itself_alone_related_the_contrast_is_infonce() -> None:
    queries, keys = random(4, 6), random(4, 6) + 1
    alone = contrast(queries, keys, torch.eye(4, dtype=torch.bool), 0.07)
    logits = F.normalize(queries, dim=1) @ F.normalize(keys, dim=1).T / 0.07
    torch.testing.assert_close(alone, F.cross_entropy(logits, torch.arange(4)))
    assert IrgOptions().contrast == 0.5
    assert float(contrast(queries, queries, torch.ones(4, 4, dtype=torch.bool), 0.07)) > float(
        contrast(queries, queries, torch.eye(4, dtype=torch.bool), 0.07)
    )


def test_what_irg_contrasts_with_is_the_teachers() -> None:
    """In the released code both sides were the student's."""
    method: Any = IrgOptions(**EAGER, width=8).build(lambda _: detector())
    image, teacher = Site().batch(0).image, method.teacher.network
    student, taught = two_stage(method.student).scene(image), Taught(two_stage(teacher).scene(image), [])
    before = method.region_losses(student, taught)["contrast"]
    with torch.no_grad():
        for p in teacher.roi_heads.box_head.parameters():
            p.add_(torch.linspace(-1, 1, p.numel()).view_as(p))
    assert not torch.isclose(before, method.region_losses(student, taught)["contrast"])


def test_the_divergence_has_a_direction_and_a_constant_target() -> None:
    target, mine = torch.zeros(1, 2, requires_grad=True), torch.tensor([[1.0, 0.0]], requires_grad=True)
    value = divergence(target, mine)
    p = mine.detach().softmax(1)
    assert float(value.detach()) == pytest.approx(float((0.5 * (0.5 / p).log()).sum()), abs=1e-6)
    value.backward()
    assert target.grad is None
    torch.testing.assert_close(mine.grad, p - 0.5)


def test_a_scene_reads_what_the_detector_answers() -> None:
    """The regions of a scene are those of `predict` and `losses`: one forward in place of two."""
    net: Any = detector().eval()
    image = Site().batch(0).image
    direct, scene = net.predict(image, 0.05), two_stage(net).scene(image)
    for one, other in zip(direct, scene.detections(0.05)):
        assert torch.equal(one.boxes, other.boxes)
    calls: list[int] = []
    net.backbone.register_forward_hook(lambda *_: calls.append(1))
    scene = two_stage(net).scene(image)
    scene.detections(0.05)
    scene.classify(scene.features(scene.proposals))
    assert calls == [1]
    assert isinstance(net, nn.Module)
