"""Card grounded_teacher.md, section 6, items 12 and 13: crop banks and mixing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from medkd.data.targets import Target
from medkd.detection.crops import CropBank, corners
from medkd.detection.relation_mix import RelationMix, drawn
from medkd.detection.relational import majority
from medkd.engine.randomness import Draws, generator

C = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])
BOXES = torch.tensor([[2.0, 4, 10, 16], [14, 3, 22, 13], [3, 20, 15, 30]])


def target(boxes: Tensor = BOXES, labels: tuple[int, ...] = (0, 1, 2), **values: object) -> Target:
    return Target(boxes, torch.tensor(labels, dtype=torch.int64), **values)


def images(count: int = 1, channels: int = 2) -> Tensor:
    return torch.rand(count, channels, 32, 32, generator=generator("images"))


def filled(value: float = 5.0, size: int = 12, classes: int = 3) -> CropBank:
    """Crops of class k hold value + k."""
    bank = CropBank(classes, 2, (8, 8), capacity=4)
    for k in range(classes):
        image = torch.full((1, 2, 32, 32), value + k)
        bank.push(image, [target(torch.tensor([[1.0, 1, 1 + size, 1 + size]]), (k,))])
    return bank


def mix(step: int, is_target: bool = False, mixer: RelationMix | None = None, matrix: Tensor = C):
    mixer = mixer or RelationMix(probability=1.0)
    return mixer(images(), [[target()]], matrix, filled(), None, Draws((0, step, "x"), 1), is_target)


def test_a_bank_holds_the_last() -> None:
    bank = CropBank(2, 1, (4, 4), capacity=50)
    for number in range(60):
        bank.push(torch.full((1, 1, 9, 9), float(number)), [target(torch.tensor([[1.0, 1, 6, 8]]), (1,))])
    held = bank.crops[50:100, 0, 0, 0]
    assert sorted(held.tolist()) == list(range(10, 60))
    assert bank.held().tolist() == [0, 50]
    assert bank.sizes[50].tolist() == [7, 5]  # along the axes of the image: rows, then columns


def test_one_push_of_more_than_the_capacity_keeps_its_last() -> None:
    bank = CropBank(1, 1, (2, 2), capacity=3)
    image = torch.arange(10.0).repeat(1, 1, 10, 1)
    boxes = torch.tensor([[float(x), 0, x + 1, 1] for x in range(7)])
    bank.push(image, [target(boxes, (0,) * 7)])
    assert sorted(bank.crops[:3, 0].mean((1, 2)).tolist()) == [4, 5, 6]
    assert not bank.crops[3].any()  # of the dropped, chance would say which stays
    assert not bank.sizes[3].any()


def test_boxes_without_area_are_skipped_and_other_types_are_taken() -> None:
    bank = CropBank(3, 2, (4, 4))
    boxes = torch.tensor([[5.0, 5, 5, 9], [2, 2, 8, 8]])
    bank.push(images().to(torch.float64), [target(boxes, (0, 1))])
    bank.push((images() * 255).to(torch.uint8), [target(torch.zeros(0, 4), ())])
    assert bank.held().tolist() == [0, 1, 0]


def test_a_crop_is_the_content_of_the_box() -> None:
    bank = CropBank(1, 2, (12, 8), capacity=1)
    bank.push(images(), [target(BOXES[:1], (0,))])  # 8 wide, 12 high: stored at its own size
    assert torch.allclose(bank.crops[0].float(), images()[0, :, 4:16, 2:10], atol=1e-3)


def test_three_axes() -> None:
    bank = CropBank(2, 1, (3, 4, 5), capacity=2)
    volume = torch.rand(1, 1, 9, 9, 9, generator=generator("volume"))
    box = torch.tensor([[1.0, 2, 3, 4, 6, 8]])
    bank.push(volume, [target(box, (1,))])
    assert torch.allclose(bank.crops[2].float(), volume[0, :, 1:4, 2:6, 3:8], atol=1e-3)
    matrix = torch.tensor([[0.4, 0.6], [0.3, 0.7]])
    mixed, _ = RelationMix(1.0)(volume, [[target(box, (0,))]], matrix, bank, None, Draws((0, 1, "x"), 1), False)
    inside = torch.zeros_like(volume, dtype=torch.bool)
    inside[..., 1:4, 2:6, 3:8] = True
    assert torch.equal(mixed[~inside], volume[~inside])


def test_what_mixing_may_change() -> None:
    """Only pixels inside boxes; the mixture in the pixels is the mixture of the label; inputs stay as they are."""
    often = majority(C)
    changed = 0
    for step in range(60):
        before = target()
        mixed, ((after,),) = mix(step)
        assert torch.equal(after.boxes, before.boxes)
        assert torch.allclose(after.soft.sum(1), torch.ones(3))
        outside = torch.ones(32, 32, dtype=torch.bool)
        for n, (x0, y0, x1, y1) in enumerate(BOXES.int().tolist()):
            outside[y0:y1, x0:x1] = False
            own = float(after.soft[n, n])
            if own == 1:
                assert torch.equal(mixed[0, :, y0:y1, x0:x1], images()[0, :, y0:y1, x0:x1])
                assert after.labels[n] == n
                continue
            changed += 1
            assert own <= 0.5 if often[n] else own >= 0.5
            other = int((after.soft[n] * (torch.arange(4) != n)).argmax())
            assert other not in (n, 3)
            assert after.labels[n] == (other if often[n] else n)
            expected = own * images()[0, :, y0:y1, x0:x1] + (1 - own) * (5 + other)
            assert torch.allclose(mixed[0, :, y0:y1, x0:x1], expected, atol=2e-3)
        assert torch.equal(mixed[0][:, outside], images()[0][:, outside])
    assert changed > 20


def test_the_same_draws_give_the_same_and_a_part_of_a_batch_its_own() -> None:
    assert all(torch.equal(mix(s)[0], mix(s)[0]) for s in range(5))
    two, sets, bank = images(2), [[target(), target(BOXES[:2], (0, 1))]], filled()
    whole = RelationMix(1.0)(two, sets, C, bank, None, Draws((0, 3, "x"), 2), False)
    second = RelationMix(1.0)(two[1:], [sets[0][1:]], C, bank, None, Draws((0, 3, "x"), 1, start=1, total=2), False)
    assert torch.equal(whole[0][1], second[0][0])
    assert torch.equal(whole[1][0][1].soft, second[1][0][0].soft)


def test_in_the_target_stream_minority_bases_stay() -> None:
    for step in range(30):
        _, ((after,),) = mix(step, is_target=True)
        assert after.soft[1:].tolist() == [[0, 1, 0, 0], [0, 0, 1, 0]]


def test_partners_are_drawn_by_their_confusion() -> None:
    n = 10_000
    u = torch.rand(n, generator=generator("u"))
    for weights in (torch.tensor([0.0, 0.3, 0.2]), torch.tensor([0.2, 0.3, 0.5])):
        seen = torch.bincount(drawn(weights.expand(n, 3), u), minlength=3)
        expected = weights / weights.sum() * n
        assert seen[expected == 0].sum() == 0
        chi = ((seen - expected).square() / expected)[expected > 0].sum()
        assert chi < 13.8  # 0.1 % point at two degrees of freedom


def test_too_small_crops_rare_confusions_and_empty_banks_mix_nothing() -> None:
    small = filled(size=3)  # less than 0.4 of 8
    calls = [
        (C, small), (C, CropBank(3, 2, (8, 8))),
        (torch.eye(3), filled()), (torch.tensor([[1.0, 0, 0], [0.04, 0.96, 0], [0.04, 0, 0.96]]), filled()),
    ]  # fmt: skip
    for matrix, bank in calls:
        for step in range(10):
            mixed, _ = RelationMix(1.0)(images(), [[target()]], matrix, bank, None, Draws((0, step, "x"), 1), False)
            assert torch.equal(mixed, images())


def test_one_class_mixes_nothing() -> None:
    """The documented fact about all one-class runs."""
    bank = filled(classes=1)
    for step in range(20):
        t = target(BOXES, (0, 0, 0))
        mixed, _ = RelationMix(1.0)(images(), [[t]], torch.ones(1, 1), bank, None, Draws((0, step, "x"), 1), False)
        assert torch.equal(mixed, images())


def test_crops_come_from_both_banks() -> None:
    """Within and across domains: source crops hold 5 to 7, target crops 50 to 52."""
    source, other, seen = filled(), filled(50.0), {False: set(), True: set()}
    for step in range(80):
        for is_target in (False, True):
            draws = Draws((0, step, "x"), 1)
            mixed, ((after,),) = RelationMix(1.0)(images(), [[target()]], C, source, other, draws, is_target)
            own = after.soft[0, 0]
            if own < 0.45:
                content = (mixed[0, 0, 8, 5] - own * images()[0, 0, 8, 5]) / (1 - own)
                seen[is_target].add(bool(content > 20))
    assert seen == {False: {False, True}, True: {True}}


def test_two_label_sets_of_one_object_share_the_decision() -> None:
    """The published code mixes twice, in place, and loses the first mixture. Teacher and expert stay two sets."""
    expert = target(BOXES + 0.5, (0, 1, 1), source="expert", regress=False)
    for step in range(30):
        draws = Draws((0, step, "x"), 1)
        _, ((a,), (b,)) = RelationMix(1.0)(images(), [[target()], [expert]], C, filled(), None, draws, False)
        own = a.soft.gather(1, torch.tensor([[0], [1], [2]]))[:, 0]
        assert (b.soft[0] == a.soft[0]).all()
        assert (b.soft[1] == a.soft[1]).all()
        assert b.soft[2, 1] >= own[2] - 1e-6  # its own label is class 1
        assert (b.source, b.regress) == ("expert", False)
        assert torch.equal(b.boxes, BOXES + 0.5)


def test_axes_of_a_box() -> None:
    low, high = corners(torch.tensor([[1.0, 2, 3, 4]]))
    assert low.tolist() == [[2, 1]]
    assert high.tolist() == [[4, 3]]


@pytest.mark.gpu
def test_on_a_gpu() -> None:
    bank = filled().cuda()
    t = target().to("cuda")
    draws = Draws((0, 1, "x"), 1)
    mixed, _ = RelationMix(1.0)(images().cuda(), [[t]], C.cuda(), bank, None, draws, False)
    expected, _ = RelationMix(1.0)(images(), [[target()]], C, filled(), None, draws, False)
    assert torch.allclose(mixed.cpu(), expected, atol=1e-3)
