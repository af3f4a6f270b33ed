"""The detector contract on one-stage detectors: torchvision's RetinaNet and FCOS, MONAI's RetinaNet, 2-D and 3-D."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import box_iou, sigmoid_focal_loss

from medkd.data.targets import Target
from medkd.detection.detectors.dense import Dense, DenseDetector
from medkd.detection.detectors.monai_retinanet import MonaiRetinaNet
from medkd.detection.detectors.options import (
    DenseOptions,
    FCOSOptions,
    MonaiRetinaNetOptions,
    RetinaNetOptions,
    TinyOptions,
)
from medkd.detection.detectors.protocol import RoIs
from medkd.errors import InputError

K = 3
TINY = TinyOptions(features=(16, 24), pyramid=16)
MONAI = MonaiRetinaNetOptions(features=(8, 16, 24), pyramid=16)
CASES = {
    "retinanet": (RetinaNetOptions(backbone=TINY, anchor_scale=4), 2),
    "fcos": (FCOSOptions(backbone=TINY), 2),
    "monai 2-D": (MONAI, 2),
    "monai 3-D": (MONAI, 3),
}
Case = tuple[DenseOptions, int]


@pytest.fixture(params=CASES.values(), ids=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    chosen: Case = request.param
    return chosen


def detector(case: Case) -> DenseDetector:
    torch.manual_seed(0)
    options, dims = case
    made = options.build(dims, 1, K)
    assert isinstance(made, DenseDetector)
    return made


def images(dims: int, count: int = 2) -> Tensor:
    shape = (64, 96) if dims == 2 else (32, 48, 40)
    return torch.rand(count, 1, *shape, generator=torch.Generator().manual_seed(1))


def target(dims: int, **changes: object) -> Target:
    boxes = [[10.0, 12, 40, 44], [50, 8, 80, 30]] if dims == 2 else [[4.0, 6, 8, 20, 22, 24], [8, 28, 18, 28, 46, 38]]
    given = {"boxes": torch.tensor(boxes), "labels": torch.tensor([0, 2])} | changes
    return Target(**given)  # type: ignore[arg-type]


def empty(dims: int) -> Target:
    return Target(torch.zeros(0, 2 * dims), torch.zeros(0, dtype=torch.int64))


def values(losses: object) -> list[float]:
    return [float(getattr(losses, n).detach()) for n in ("classification", "box", "objectness", "rpn_box")]


def test_every_parameter_learns(case: Case) -> None:
    net = detector(case)
    (losses,) = net.losses(images(case[1]), [[target(case[1]), empty(case[1])]])
    assert all(v > 0 for v in values(losses)[:2])
    losses.total().backward()
    assert [n for n, p in net.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_two_sets_in_one_forward_are_two_calls(case: Case) -> None:
    dims = case[1]
    net = detector(case).eval()
    first, second = [target(dims), empty(dims)], [target(dims, labels=torch.tensor([1, 1])), None]
    both = net.losses(images(dims), [first, second])
    for one, targets in zip(both, (first, second)):
        assert values(one) == pytest.approx(values(net.losses(images(dims), [targets])[0]), rel=1e-5)
    alone = net.losses(images(dims)[:1], [second[:1]])[0]
    assert values(both[1]) == pytest.approx(values(alone), rel=1e-4)


def test_soft_one_hot_is_hard_and_weight_zero_removes(case: Case) -> None:
    dims = case[1]
    net = detector(case)
    hard = net.losses(images(dims, 1), [[target(dims)]])[0]
    one_hot = F.one_hot(torch.tensor([0, 2]), K + 1).float()
    assert values(net.losses(images(dims, 1), [[target(dims, soft=one_hot)]])[0]) == values(hard)
    halved = net.losses(images(dims, 1), [[target(dims, weight=torch.tensor([0.0, 2.0]))]])[0]
    first = halved.rois.gt == 0
    assert first.any()
    assert (halved.rois.loss[first] == 0).all()
    torch.testing.assert_close(halved.rois.loss[~first], 2 * hard.rois.loss[~first])


def test_regions_are_the_positive_anchors_and_the_background_logit_is_zero(case: Case) -> None:
    (losses,) = detector(case).losses(images(case[1], 1), [[target(case[1])]])
    rois = losses.rois
    assert (rois.gt < K).all()
    assert (rois.logits[:, K] == 0).all()
    below_half = (rois.logits[:, :K].sigmoid() < 0.5).all(1)
    assert torch.equal(rois.logits.argmax(1) == K, below_half)
    expected = sigmoid_focal_loss(rois.logits[:, :K], F.one_hot(rois.gt, K).float()).sum(1)
    torch.testing.assert_close(rois.loss, expected)


def test_another_classification_loss_replaces_that_of_the_positives(case: Case) -> None:
    net, dims = detector(case), case[1]
    plain = net.losses(images(dims), [[target(dims), None], [None, None]])
    sizes: list[int] = []

    def doubled(rois: RoIs, number: int) -> Tensor:
        sizes.append(len(rois))
        return 2 * rois.mean()

    two = net.losses(images(dims), [[target(dims), None], [None, None]], doubled)
    assert sizes == [len(plain[0].rois), 0]
    more = values(two[0])[0] - values(plain[0])[0]
    assert more == pytest.approx(float(plain[0].rois.mean().detach()), rel=1e-4)
    assert values(two[1]) == values(plain[1]) == [0.0] * 4
    two[1].total().backward()


def test_untrusted_boxes_and_empty_images(case: Case) -> None:
    net, dims = detector(case), case[1]
    untrusted = net.losses(images(dims, 1), [[target(dims, regress=False)]])[0]
    assert values(untrusted)[1] == 0.0
    assert values(untrusted)[0] == pytest.approx(values(net.losses(images(dims, 1), [[target(dims)]])[0])[0])
    nothing = net.losses(images(dims), [[empty(dims)] * 2])[0]
    assert len(nothing.rois) == 0
    assert values(nothing)[0] > 0
    assert values(nothing)[1] == 0


def test_the_axes_of_boxes_are_those_of_the_image(case: Case) -> None:
    """Trained on one bright bar, longer along one axis than along another, it finds it there and not at a transpose."""
    options, dims = case
    net = detector(case)
    picture = torch.zeros_like(images(dims, 1))
    if dims == 2:
        bar, where = torch.tensor([[60.0, 36.0, 92.0, 56.0]]), (slice(36, 56), slice(60, 92))
    else:
        bar, where = torch.tensor([[8.0, 26.0, 4.0, 20.0, 46.0, 18.0]]), (slice(8, 20), slice(26, 46), slice(4, 18))
    picture[(0, 0, *where)] = 1.0
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(150 if options.kind == "fcos" else 60 if dims == 2 else 40):
        optimizer.zero_grad()
        net.losses(picture, [[Target(bar, torch.tensor([1]))]])[0].total().backward()
        optimizer.step()
    found = net.eval().predict(picture.repeat(2, *(1,) * (dims + 1)))[1]
    assert len(found) > 0, options.kind
    assert int(found.labels[0]) == 1
    torch.testing.assert_close(found.boxes[0], bar[0], atol=3.0, rtol=0)
    high = torch.tensor([96.0, 64.0] * 2 if dims == 2 else [32.0, 48.0, 40.0] * 2)
    assert (found.boxes >= 0).all()
    assert (found.boxes <= high).all()
    assert found.probabilities is not None
    torch.testing.assert_close(found.probabilities.sum(1), torch.ones(len(found)))


def test_outputs_and_matches_lie_where_the_picture_says(case: Case) -> None:
    """A row of the outputs is the place of its anchor: what changes is near the spot; what matches is near the box."""
    net, dims = detector(case).eval(), case[1]
    blank = torch.zeros_like(images(dims, 1))
    spot = blank.clone()
    shape = blank.shape[2:]
    at = [14, 70] if dims == 2 else [8, 36, 22]
    spot[(0, 0, *(slice(c - 3, c + 3) for c in at))] = 20.0
    before, after = net.outputs(blank), net.outputs(spot)
    changed = (after.logits - before.logits).abs().sum((0, 2))[: before.counts[0]]
    anchor = before.anchors[changed.argmax()]
    centre = ((anchor[:dims] + anchor[dims:]) / 2).tolist()
    by_axis = centre if isinstance(net, MonaiRetinaNet) else centre[::-1]
    assert by_axis == pytest.approx(at, abs=12), shape
    low, high = [c - 7.0 for c in at], [c + 7.0 for c in at]
    box = torch.tensor([[*low, *high] if dims == 3 else [*low[::-1], *high[::-1]]])
    matched = before.anchors[net.match(box, before) >= 0]
    centres = ((matched[:, :dims] + matched[:, dims:]) / 2).mean(0).tolist()
    by_axis = centres if isinstance(net, MonaiRetinaNet) else centres[::-1]
    assert by_axis == pytest.approx(at, abs=8)


def test_fcos_matches_points_near_the_centre_of_the_smallest_box_that_fits_the_level() -> None:
    net = detector(CASES["fcos"])
    dense: Dense = net.outputs(torch.zeros(1, 1, 64, 96))
    small, around = [30.0, 30, 42, 42], [8.0, 8, 88, 60]
    row = net.match(torch.tensor([small, around]), dense)
    finest = row[: dense.counts[0]].view(16, 24)
    # a point of stride 4 is at 4 i (torchvision's anchors), near is less than 6 pixels from the centre 36
    assert (finest == 0).nonzero().tolist() == [[y, x] for y in (8, 9, 10) for x in (8, 9, 10)]
    assert (row[dense.counts[0] :] != 0).all()
    assert (row[dense.counts[0] :] == 1).any()


def test_retinanet_ignores_anchors_between_its_thresholds() -> None:
    net = detector(CASES["retinanet"])
    dense = net.outputs(torch.zeros(1, 1, 64, 96))
    boxes = target(2).boxes
    overlap, row = box_iou(boxes, dense.anchors), net.match(boxes, dense)
    best = overlap.max(0).values
    assert (row[best >= 0.5] >= 0).all()
    lifted = (overlap == overlap.max(1, keepdim=True).values).any(0)
    assert (row[(best >= 0.4) & (best < 0.5) & ~lifted] == -2).all()
    assert (row[(best < 0.4) & ~lifted] == -1).all()


def test_atss_leaves_no_box_without_an_anchor() -> None:
    """A cube whose four nearest anchors are equally good: mean + standard deviation of the overlaps is above all."""
    net = detector(CASES["monai 3-D"])
    dense = net.outputs(images(3, 1))
    assert set(net.match(target(3).boxes, dense).tolist()) == {-1, 0, 1}


def test_two_dimensions_only() -> None:
    for name in ("retinanet", "fcos"):
        with pytest.raises(InputError, match="2-D alone"):
            CASES[name][0].build(3, 1, K)
