"""The detector contract on torchvision Faster R-CNN: sets, soft labels, weights, trust in location, conventions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.detection import FasterRCNN

from medkd.data.targets import Target
from medkd.detection.detectors.options import FasterRCNNOptions, ResNetOptions, TimmOptions, TinyOptions
from medkd.detection.detectors.protocol import RoIs
from medkd.detection.detectors.pyramid import batch_norms
from medkd.detection.detectors.torchvision_rcnn import TorchvisionRCNN
from medkd.errors import InputError

K = 3
SMALL = FasterRCNNOptions(backbone=TinyOptions(features=(8, 12), pyramid=8), anchor_scale=4, head=16, proposals=50)
ALL = SMALL.model_copy(update={"rpn_samples": 100_000, "roi_samples": 100_000})
"""Samplers that take everything: no random choice, so losses of two calls can be equal."""


def detector(options: FasterRCNNOptions = ALL) -> TorchvisionRCNN:
    torch.manual_seed(0)
    made = options.build(2, 3, K)
    assert isinstance(made, TorchvisionRCNN)
    return made


def images(count: int = 2) -> Tensor:
    return torch.rand(count, 3, 64, 96, generator=torch.Generator().manual_seed(1))


def target(**changes: object) -> Target:
    boxes = torch.tensor([[10.0, 12.0, 40.0, 44.0], [50.0, 8.0, 80.0, 30.0]])
    return Target(**({"boxes": boxes, "labels": torch.tensor([0, 2])} | changes))  # type: ignore[arg-type]


def empty() -> Target:
    return Target(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64))


def values(losses: object) -> list[float]:
    return [float(getattr(losses, n).detach()) for n in ("classification", "box", "objectness", "rpn_box")]


@pytest.mark.parametrize("norm", ["batch", "group"])
def test_every_parameter_learns_and_every_loss_is_finite(norm: str) -> None:
    net = detector(SMALL.model_copy(update={"backbone": TinyOptions(features=(8, 16), pyramid=8, norm=norm)}))
    (losses,) = net.losses(images(), [[target(), empty()]])
    assert all(v > 0 for v in values(losses))
    losses.total().backward()
    silent = [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert silent == []


def test_losses_are_torchvisions_own_without_soft_labels_and_weights() -> None:
    """Against torchvision's FasterRCNN of the same parts, its own resizing and normalisation made identities."""
    net = detector()
    theirs = FasterRCNN(net.backbone, K + 1, min_size=64, max_size=96, image_mean=[0] * 3, image_std=[1] * 3)
    theirs.rpn, theirs.roi_heads = net.rpn, net.roi_heads
    theirs.transform.size_divisible = 1
    targets = [target(), target(labels=torch.tensor([1, 1]))]
    expected = theirs(list(images()), [{"boxes": t.boxes, "labels": t.labels + 1} for t in targets])
    (mine,) = net.losses(images(), [targets])
    names = ("loss_classifier", "loss_box_reg", "loss_objectness", "loss_rpn_box_reg")
    assert values(mine) == pytest.approx([float(expected[n].detach()) for n in names], rel=1e-4)


def test_detections_are_torchvisions_own() -> None:
    net = detector().eval()
    theirs = FasterRCNN(net.backbone, K + 1, min_size=64, max_size=96, image_mean=[0] * 3, image_std=[1] * 3).eval()
    theirs.rpn, theirs.roi_heads = net.rpn, net.roi_heads
    theirs.transform.size_divisible = 1
    with torch.no_grad():
        expected = theirs(list(images()))
    for mine, other in zip(net.predict(images()), expected):
        assert len(mine) > 0
        torch.testing.assert_close(mine.boxes, other["boxes"])
        torch.testing.assert_close(mine.scores, other["scores"])
        assert torch.equal(mine.labels + 1, other["labels"])
        assert mine.probabilities is not None
        torch.testing.assert_close(mine.probabilities.sum(1), torch.ones(len(mine)))
        torch.testing.assert_close(mine.probabilities.gather(1, mine.labels[:, None])[:, 0], mine.scores)


def test_two_sets_in_one_forward_are_two_calls() -> None:
    net, runs = detector(), []
    net.backbone.register_forward_hook(lambda *_: runs.append(1))
    first, second = [target(), empty()], [target(labels=torch.tensor([1, 1]), regress=False), target()]
    both = net.losses(images(), [first, second])
    assert len(runs) == 1
    for one, targets in zip(both, (first, second)):
        assert values(one) == pytest.approx(values(net.losses(images(), [targets])[0]), rel=1e-5)
    assert values(both[0]) != pytest.approx(values(both[1]), rel=1e-3)


def test_soft_one_hot_is_hard_and_soft_differs() -> None:
    net = detector()
    hard = net.losses(images(1), [[target()]])[0]
    one_hot = F.one_hot(torch.tensor([0, 2]), K + 1).float()
    assert values(net.losses(images(1), [[target(soft=one_hot)]])[0]) == values(hard)
    mixed = net.losses(images(1), [[target(soft=0.5 * one_hot + 0.5 * one_hot.roll(1, 1))]])[0]
    assert set(mixed.rois.soft.unique().tolist()) == {0.0, 0.5, 1.0}
    expected = -(mixed.rois.soft * mixed.rois.logits.log_softmax(1)).sum(1).mean()
    assert float(mixed.classification.detach()) == pytest.approx(float(expected.detach()), rel=1e-6)


def test_weight_zero_removes_a_box_from_classification_and_objectness() -> None:
    net = detector()
    (losses,) = net.losses(images(1), [[target(weight=torch.tensor([0.0, 1.0]))]])
    of_first = losses.rois.gt == 0
    assert of_first.any()
    assert (losses.rois.loss[of_first] == 0).all()
    assert (losses.rois.loss[~of_first] > 0).all()
    changed = target(weight=torch.tensor([0.0, 1.0]), labels=torch.tensor([1, 2]))
    assert values(losses)[::2] == values(net.losses(images(1), [[changed]])[0])[::2]
    full, double = (net.losses(images(1), [[target(weight=torch.full((2,), w))]])[0] for w in (1.0, 2.0))
    none = net.losses(images(1), [[target(weight=torch.zeros(2))]])[0]
    steps = [values(one)[2] for one in (none, full, double)]
    assert steps[1] - steps[0] == pytest.approx(steps[2] - steps[1], rel=1e-3)
    assert steps[1] > steps[0] * 1.001
    parts = full.rois.loss.detach(), double.rois.loss.detach()
    foreground = full.rois.gt < K
    torch.testing.assert_close(parts[1][foreground], 2 * parts[0][foreground])
    torch.testing.assert_close(parts[1][~foreground], parts[0][~foreground])


def test_boxes_that_are_not_trusted_train_no_regression() -> None:
    net = detector()
    trusted, other = (net.losses(images(1), [[target(regress=r)]])[0] for r in (True, False))
    assert values(other)[0::2] == values(trusted)[0::2]
    assert values(other)[1::2] == [0.0, 0.0]
    (other.box + other.rpn_box).backward()
    for head in (net.rpn.head.bbox_pred, net.roi_heads.box_predictor.bbox_pred):
        assert head.weight.grad is not None
        assert not head.weight.grad.any()
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
    assert values(three[0])[1:] == values(plain[0])[1:]


def test_x_is_the_last_axis_and_boxes_stay_in_the_frame() -> None:
    """A detector trained on one bright bar, wide and low, finds it where it is, not at its transpose."""
    net = detector(SMALL.model_copy(update={"backbone": TinyOptions(features=(16, 24), pyramid=24), "head": 32}))
    picture = torch.zeros(1, 3, 64, 96)
    picture[:, :, 36:52, 60:92] = 1.0
    bar = Target(torch.tensor([[60.0, 36.0, 92.0, 52.0]]), torch.tensor([1]))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(50):
        optimizer.zero_grad()
        net.losses(picture, [[bar]])[0].total().backward()
        optimizer.step()
    found = net.eval().predict(picture.repeat(2, 1, 1, 1))[1]
    assert int(found.labels[0]) == 1
    torch.testing.assert_close(found.boxes[0], bar.boxes[0], atol=4.0, rtol=0)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= torch.tensor([96.0, 64.0, 96.0, 64.0])).all()


def test_eval_moves_no_statistics_and_frozen_ones_never_move() -> None:
    net = detector()
    before = [n.running_mean.clone() for n in batch_norms(net)]
    net.eval().predict(images())
    assert all(torch.equal(a, n.running_mean) for a, n in zip(before, batch_norms(net)))
    net.train().losses(images(), [[target()] * 2])
    assert not any(torch.equal(a, n.running_mean) for a, n in zip(before, batch_norms(net)))

    frozen = detector(ALL.model_copy(update={"backbone": TinyOptions(features=(8, 12), pyramid=8, norm="frozen")}))
    before = [n.running_mean.clone() for n in batch_norms(frozen)]
    frozen.train().losses(images(), [[target()] * 2])[0].total().backward()
    assert all(torch.equal(a, n.running_mean) for a, n in zip(before, batch_norms(frozen)))
    assert all(n.weight.grad is None for n in batch_norms(frozen))


def test_backbones() -> None:
    for backbone in (ResNetOptions(depth=18, pyramid=16), TimmOptions(pyramid=16)):
        if isinstance(backbone, TimmOptions):
            pytest.importorskip("timm", reason="timm is not installed: pip install 'medkd[detection]'")
        net: nn.Module = FasterRCNNOptions(backbone=backbone, head=16, proposals=20).build(2, 1, K)
        levels = net.backbone(torch.zeros(2, 1, 64, 64))
        assert [tuple(m.shape) for m in levels.values()] == [(2, 16, s, s) for s in (16, 8, 4, 2, 1)]
    with pytest.raises(InputError, match="2-D alone"):
        SMALL.build(3, 1, K)


def test_autocast_gives_losses_in_float32() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (losses,) = detector().losses(images(), [[target(), empty()]])
    assert losses.total().dtype == torch.float32
    losses.total().backward()


def test_a_set_needs_one_entry_an_image() -> None:
    with pytest.raises(ValueError, match="target set 1 has 1 entries for 2 images"):
        detector().losses(images(), [[target()] * 2, [target()]])
