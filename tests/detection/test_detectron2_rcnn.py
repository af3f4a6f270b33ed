"""The detector contract on detectron2's GeneralizedRCNN, and that it is still detectron2's: losses, boxes, weights.

Needs the real detectron2, built from source (docs/detection.md). docs/results/detectron2_tests.log is a run of it.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.data.targets import Target
from medkd.detection.detectors.detectron2_config import merged
from medkd.detection.detectors.options import Detectron2Options
from medkd.detection.detectors.protocol import RoIs
from medkd.detection.detectors.pyramid import load_backbone
from medkd.errors import InputError

pytest.importorskip("detectron2", reason="detectron2 is not installed; it is built from source: docs/detection.md")

from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage, has_event_storage

from medkd.detection.detectors.detectron2_rcnn import OURS, MedkdRCNN, configuration

K = 3
THIN: dict[str, Any] = {
    "MODEL": {
        "BACKBONE": {"FREEZE_AT": 0},
        "RESNETS": {"NORM": "BN", "STEM_OUT_CHANNELS": 8, "RES2_OUT_CHANNELS": 8, "WIDTH_PER_GROUP": 4},
        "FPN": {"OUT_CHANNELS": 8},
        "ANCHOR_GENERATOR": {"SIZES": [[16], [32], [64], [128], [256]]},
        "RPN": {"POST_NMS_TOPK_TRAIN": 50, "POST_NMS_TOPK_TEST": 50},
        "ROI_BOX_HEAD": {"FC_DIM": 16},
    }
}
EVERY = {"MODEL": {"RPN": {"BATCH_SIZE_PER_IMAGE": 100_000}, "ROI_HEADS": {"BATCH_SIZE_PER_IMAGE": 100_000}}}
"""Samplers that take everything: no random choice, so losses of two calls can be equal."""
ALL = merged(THIN, EVERY)


def detector(settings: dict[str, Any] = ALL, channels: int = 3, **changes: Any) -> MedkdRCNN:
    torch.manual_seed(0)
    made = Detectron2Options(settings=merged(settings, {"MODEL": changes})).build(2, channels, K)
    assert isinstance(made, MedkdRCNN)
    return made


def images(count: int = 2, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 60, 90, generator=torch.Generator().manual_seed(1))


def target(**changes: object) -> Target:
    boxes = torch.tensor([[10.0, 12.0, 40.0, 44.0], [50.0, 8.0, 80.0, 30.0]])
    return Target(**({"boxes": boxes, "labels": torch.tensor([0, 2])} | changes))  # type: ignore[arg-type]


def empty() -> Target:
    return Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def settled(net: MedkdRCNN) -> MedkdRCNN:
    """In eval mode, with running statistics of such images: of untrained ones nothing is found."""
    with torch.no_grad():
        for _ in range(30):
            net.feature_map(images(channels=net.channels))
    return net.eval()


def values(losses: object) -> list[float]:
    return [float(getattr(losses, n).detach()) for n in ("classification", "box", "objectness", "rpn_box")]


def stock(mine: MedkdRCNN, settings: dict[str, Any] = ALL) -> GeneralizedRCNN:
    """A plain GeneralizedRCNN of the same config and weights."""
    cfg = configuration(settings, 3, K)
    for name, (plain, _) in OURS.items():
        cfg.MODEL.merge_from_list([name, plain])
    theirs = build_model(cfg)
    assert type(theirs) is GeneralizedRCNN
    theirs.load_state_dict(mine.state_dict())
    return theirs


def as_detectron2(batch: Tensor, targets: list[Target] | None = None) -> list[dict[str, Any]]:
    """By hand, not by what is tested: BGR, 0 to 255, Instances."""
    rows: list[dict[str, Any]] = []
    for number, image in enumerate(batch):
        rows.append({"image": 255 * image[[2, 1, 0]], "height": 60, "width": 90})
        if targets:
            t = targets[number]
            rows[-1]["instances"] = Instances((60, 90), gt_boxes=Boxes(t.boxes), gt_classes=t.labels)
    return rows


def test_every_parameter_learns_and_every_loss_is_finite() -> None:
    net = detector(THIN)
    (losses,) = net.losses(images(), [[target(), empty()]])
    assert all(v > 0 for v in values(losses))
    losses.total().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []
    assert not has_event_storage()


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"ROI_BOX_HEAD": {"CLS_AGNOSTIC_BBOX_REG": True, "BBOX_REG_LOSS_WEIGHT": 2.0, "SMOOTH_L1_BETA": 0.5}},
        {"RPN": {"LOSS_WEIGHT": 3.0, "BBOX_REG_LOSS_TYPE": "giou"}, "ROI_BOX_HEAD": {"BBOX_REG_LOSS_TYPE": "giou"}},
    ],
    ids=["plain", "one box for all classes", "other losses"],
)
def test_losses_are_detectron2s_own_without_soft_labels_and_weights(changes: dict[str, Any]) -> None:
    settings = merged(ALL, {"MODEL": changes})
    net = detector(settings)
    theirs = stock(net, settings)
    for targets in ([target(), target(labels=torch.tensor([1, 1]))], [target(), empty()]):
        with EventStorage():
            expected = theirs(as_detectron2(images(), targets))
        (mine,) = net.losses(images(), [targets])
        names = ("loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc")
        assert values(mine) == pytest.approx([float(expected[n].detach()) for n in names], rel=1e-4)
        weighted = [target(weight=torch.ones(2), soft=F.one_hot(t.labels, K + 1).float(), labels=t.labels)
                    if len(t) else t for t in targets]  # fmt: skip
        assert values(net.losses(images(), [weighted])[0]) == pytest.approx(values(mine), rel=1e-6)


def test_gradients_are_detectron2s_own() -> None:
    net = detector()
    theirs = stock(net)
    with EventStorage():
        sum(theirs(as_detectron2(images(), [target(), empty()])).values()).backward()
    net.losses(images(), [[target(), empty()]])[0].total().backward()
    for (name, p), q in zip(net.named_parameters(), theirs.parameters()):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def test_detections_are_detectron2s_own() -> None:
    net = settled(detector())
    with torch.no_grad():
        expected = stock(net).eval()(as_detectron2(images()))
    for mine, other in zip(net.predict(images()), (e["instances"] for e in expected)):
        assert len(mine) > 0
        torch.testing.assert_close(mine.boxes, other.pred_boxes.tensor)
        torch.testing.assert_close(mine.scores, other.scores)
        assert torch.equal(mine.labels, other.pred_classes)
        assert mine.probabilities is not None
        torch.testing.assert_close(mine.probabilities.sum(1), torch.ones(len(mine)))
        torch.testing.assert_close(mine.probabilities.gather(1, mine.labels[:, None])[:, 0], mine.scores)
    assert all((d.scores > 0.3).all() for d in net.predict(images(), 0.3))


def test_it_can_still_be_called_as_detectron2_does() -> None:
    """Its forward on list[dict] gives boxes in the size that is asked for, and knows boxless images."""
    net = detector()
    with EventStorage():
        losses = net(as_detectron2(images(), [target(), empty()]))
    assert set(losses) == {"loss_cls", "loss_box_reg", "loss_rpn_cls", "loss_rpn_loc"}
    settled(net)
    with torch.no_grad():
        (small,), (twice,) = (
            net([{"image": 255 * images(1)[0, [2, 1, 0]], "height": 60 * f, "width": 90 * f}]) for f in (1, 2)
        )
    assert len(small["instances"]) > 0
    torch.testing.assert_close(2 * small["instances"].pred_boxes.tensor, twice["instances"].pred_boxes.tensor)


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_the_network_sees_its_own_order_of_channels_normalised(order: str) -> None:
    mean = [10.0, 20.0, 30.0]
    net = detector(ALL | {"INPUT": {"FORMAT": order}}, PIXEL_MEAN=mean, PIXEL_STD=[1.0, 2.0, 4.0])
    seen: list[Tensor] = []
    net.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    net.feature_map(images())
    assert seen[0].shape == (2, 3, 64, 96)  # padded to the stride of the coarsest map
    wanted = 255 * (images().flip(1) if order == "BGR" else images())
    wanted = (wanted - torch.tensor(mean).view(3, 1, 1)) / torch.tensor([1.0, 2.0, 4.0]).view(3, 1, 1)
    torch.testing.assert_close(seen[0][..., :60, :90], wanted)
    assert not seen[0][..., 60:, :].any()


def test_one_channel_is_repeated_for_a_model_of_three() -> None:
    net, grey = settled(detector(channels=1)), images(channels=1)
    assert (net.channels, net.dims, net.classes) == (1, 2, K)
    one, three = net.predict(grey), net.predict(grey.expand(-1, 3, -1, -1))
    assert all(len(a) > 0 and torch.equal(a.boxes, b.boxes) for a, b in zip(one, three))
    assert detector(channels=2, PIXEL_MEAN=[1.0, 2.0], PIXEL_STD=[1.0, 1.0]).eval().predict(images(channels=2))


def test_two_sets_in_one_forward_are_two_calls() -> None:
    net, runs = detector(), []
    net.backbone.register_forward_hook(lambda *_: runs.append("backbone"))
    net.proposal_generator.rpn_head.register_forward_hook(lambda *_: runs.append("rpn"))
    first, second = [target(), empty()], [target(labels=torch.tensor([1, 1]), regress=False), target()]
    both = net.losses(images(), [first, second])
    assert runs == ["backbone", "rpn"]
    for one, targets in zip(both, (first, second)):
        assert values(one) == pytest.approx(values(net.losses(images(), [targets])[0]), rel=1e-5)
    assert values(both[0]) != pytest.approx(values(both[1]), rel=1e-3)


def test_soft_labels_reach_the_regions_of_their_box_and_no_other() -> None:
    net = detector()
    soft = torch.tensor([[0.7, 0.0, 0.3, 0.0], [0.0, 0.4, 0.5, 0.1]])
    (losses,) = net.losses(images(1), [[target(soft=soft)]])
    rois = losses.rois
    for row, label in enumerate((0, 2)):
        assert (rois.gt == label).any()
        assert torch.equal(rois.soft[rois.gt == label], soft[row].expand(int((rois.gt == label).sum()), -1))
    background = torch.tensor([0.0, 0, 0, 1])
    assert torch.equal(rois.soft[rois.gt == K], background.expand(int((rois.gt == K).sum()), -1))
    expected = -(rois.soft * rois.logits.log_softmax(1)).sum(1).mean()
    assert float(losses.classification.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_weight_zero_removes_a_box_from_classification_and_objectness() -> None:
    net = detector()
    (losses,) = net.losses(images(1), [[target(weight=torch.tensor([0.0, 1.0]))]])
    of_first = losses.rois.gt == 0
    assert of_first.any()
    assert (losses.rois.loss[of_first] == 0).all()
    assert (losses.rois.loss[~of_first] > 0).all()
    changed = target(weight=torch.tensor([0.0, 1.0]), labels=torch.tensor([1, 2]))
    assert values(losses)[::2] == pytest.approx(values(net.losses(images(1), [[changed]])[0])[::2], rel=1e-6)
    none, full, double = (net.losses(images(1), [[target(weight=torch.full((2,), w))]])[0] for w in (0.0, 1.0, 2.0))
    steps = [values(one)[2] for one in (none, full, double)]
    assert steps[1] - steps[0] == pytest.approx(steps[2] - steps[1], rel=1e-3)
    assert steps[1] > steps[0] * 1.001
    of_boxes = [one.rois.loss.detach()[one.rois.gt < K].sort().values for one in (full, double)]
    assert len(of_boxes[0]) > 0
    torch.testing.assert_close(of_boxes[1], 2 * of_boxes[0])
    on_background = [one.rois.loss.detach()[one.rois.gt == K].sum() for one in (full, double)]
    torch.testing.assert_close(*on_background)


def test_boxes_that_are_not_trusted_train_no_regression() -> None:
    net = detector()
    trusted, other = (net.losses(images(1), [[target(regress=r)]])[0] for r in (True, False))
    assert values(other)[0::2] == pytest.approx(values(trusted)[0::2], rel=1e-6)
    assert values(other)[1::2] == [0.0, 0.0]
    (other.box + other.rpn_box).backward()
    for head in (net.proposal_generator.rpn_head.anchor_deltas, net.roi_heads.box_predictor.bbox_pred):
        assert head.weight.grad is None or not head.weight.grad.any()
    assert float(trusted.total(box=False).detach()) == pytest.approx(sum(values(trusted)[0::2]))


def test_images_without_boxes_are_background_and_images_without_target_take_no_part() -> None:
    net = detector()
    background = net.losses(images(), [[empty(), empty()]])[0]
    assert (background.rois.gt == K).all()
    assert values(background)[1::2] == [0.0, 0.0]
    assert all(v > 0 for v in values(background)[0::2])
    absent = net.losses(images(), [[None, None]])[0]
    assert values(absent) == [0.0] * 4
    assert len(absent.rois) == 0
    absent.total().backward()
    part = net.eval().losses(images(), [[None, target()]])[0]
    assert values(part) == pytest.approx(values(net.losses(images()[1:], [[target()]])[0]), rel=1e-4)


def test_another_classification_loss_sees_the_same_regions() -> None:
    net, seen = detector(), []

    def heavier(rois: RoIs, number: int) -> Tensor:
        seen.append((number, len(rois)))
        return rois.mean(torch.full_like(rois.loss, 3.0))

    plain = net.losses(images(1), [[target()], [None]])
    three = net.losses(images(1), [[target()], [None]], heavier)
    assert seen == [(0, len(plain[0].rois)), (1, 0)]
    assert values(three[0])[0] == pytest.approx(3 * values(plain[0])[0], rel=1e-6)
    assert values(three[0])[1:] == pytest.approx(values(plain[0])[1:], rel=1e-6)


def test_the_regions_of_a_loss_can_be_read_again() -> None:
    net = detector()
    rois = net.losses(images(), [[target(), None]])[0].rois
    assert rois.regions is not None
    assert [len(r) for r in rois.regions] == [len(rois), 0]
    torch.testing.assert_close(net.class_logits(images(), rois.regions), rois.logits)
    assert net.class_logits(images()).shape == (0, K + 1)


def test_x_is_the_last_axis_and_boxes_stay_in_the_frame() -> None:
    """A detector trained on one bright bar, wide and low, finds it where it is, not at its transpose."""
    net = detector(merged(THIN, {"MODEL": {"FPN": {"OUT_CHANNELS": 24}, "ROI_BOX_HEAD": {"FC_DIM": 32}}}))
    picture = torch.zeros(1, 3, 60, 90)
    picture[:, :, 34:50, 56:88] = 1.0
    bar = Target(torch.tensor([[56.0, 34.0, 88.0, 50.0]]), torch.tensor([1]))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(80):
        optimizer.zero_grad()
        net.losses(picture.repeat(2, 1, 1, 1), [[bar, bar]])[0].total().backward()
        optimizer.step()
    found = net.eval().predict(picture.repeat(2, 1, 1, 1))[1]
    assert int(found.labels[0]) == 1
    torch.testing.assert_close(found.boxes[0], bar.boxes[0], atol=4.0, rtol=0)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([90.0, 60.0, 90.0, 60.0])).all()


def test_eval_moves_no_statistics_and_frozen_ones_never_move() -> None:
    net = detector()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [n.running_mean.clone() for n in norms]
    net.eval().predict(images())
    assert all(torch.equal(a, n.running_mean) for a, n in zip(before, norms))
    net.train().losses(images(), [[target()] * 2])
    assert not any(torch.equal(a, n.running_mean) for a, n in zip(before, norms))
    frozen = detector(ALL, RESNETS={"NORM": "FrozenBN"})
    assert not any(isinstance(m, nn.BatchNorm2d) for m in frozen.modules())
    state = {k: v.clone() for k, v in frozen.named_buffers()}
    frozen.train().losses(images(), [[target()] * 2])[0].total().backward()
    assert all(torch.equal(v, state[k]) for k, v in frozen.named_buffers())


def test_values_that_are_not_finite_reach_the_engine_as_a_loss() -> None:
    """detectron2 raises there; the engine skips such a step and ends a run that has too many of them."""
    (losses,) = detector().losses(torch.full_like(images(), float("nan")), [[target(), empty()]])
    assert not torch.isfinite(losses.total())


def test_autocast_gives_losses_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (losses,) = detector().losses(images(), [[target(), empty()]])
    assert losses.total().dtype == torch.float32
    losses.total().backward()


def test_a_copy_is_independent_and_equal() -> None:
    net = settled(detector())
    other = copy.deepcopy(net)
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(net.predict(images()), other.predict(images())))
    with torch.no_grad():
        next(other.parameters()).add_(1.0)
    assert not torch.equal(next(net.parameters()), next(other.parameters()))


def test_a_set_needs_one_entry_an_image() -> None:
    with pytest.raises(ValueError, match="target set 1 has 1 entries for 2 images"):
        detector().losses(images(), [[target()] * 2, [target()]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"MODEL": {"RESNETS": {"DEPHT": 50}}}, "MODEL.RESNETS.DEPHT"),
        ({"MODEL": {"RESNETS": {"DEPTH": "deep"}}}, "do not fit detectron2"),
        ({"MODEL": 3}, "do not fit detectron2"),
        ({"MODEL": {"RESNETS": {"DEPTH": 18}}}, "cannot build.*RES2_OUT_CHANNELS"),
        ({"MODEL": {"BACKBONE": {"NAME": "nobody"}}}, "cannot build.*nobody"),
        ({"MODEL": {"ROI_HEADS": {"NAME": "Res5ROIHeads"}}}, "'Res5ROIHeads'; needed: 'StandardROIHeads'"),
        ({"MODEL": {"META_ARCHITECTURE": "RetinaNet"}}, "needed: 'GeneralizedRCNN'"),
        ({"MODEL": {"MASK_ON": True}}, "MASK_ON is True; boxes alone"),
        ({"MODEL": {"ROI_HEADS": {"NUM_CLASSES": 80}}}, "NUM_CLASSES is 80; the data have 3 classes"),
        ({"MODEL": {"PIXEL_MEAN": [1.0, 2.0], "PIXEL_STD": [1.0, 1.0]}}, "2 PIXEL_MEAN.*3 channels"),
    ],
)
def test_settings_that_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Detectron2Options(settings=settings).build(2, 3, K)


def test_every_problem_at_once_and_what_it_cannot_do(tmp_path: Path) -> None:
    wrong = {"MODEL": {"MASK_ON": True, "META_ARCHITECTURE": "RetinaNet"}}
    with pytest.raises(InputError) as raised:
        Detectron2Options(settings=wrong).build(2, 3, K)
    assert len(raised.value.problems) == 2
    with pytest.raises(InputError, match="2-D alone"):
        Detectron2Options().build(3, 1, K)
    with pytest.raises(InputError, match="no backbone to load it into"):
        load_backbone(detector(), tmp_path / "x.safetensors")
