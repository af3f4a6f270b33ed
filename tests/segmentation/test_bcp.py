"""BCP and its twin without copy-paste (bcp.md 6, items 3, 7, 18, 19; semi_supervised_baselines.md 6, 15, 17)."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from medkd.data.components import largest_component
from medkd.segmentation.bcp import BidirectionalCopyPaste, LabelledCopyPaste, pseudo_labels
from medkd.segmentation.losses import DiceCE, one_hot, region_dice_ce
from medkd.segmentation.mixing import halves, paste
from medkd.segmentation.options import BcpOptions, LabelledCopyPasteOptions, SelfTrainingOptions
from medkd.segmentation.self_training import SelfTraining

DICE = ["batch_squared", "sample_linear"]


def oracle_of(truth: torch.Tensor):
    """Answers an image that holds its own index with the logits of its true label."""
    return lambda image: 20 * one_hot(truth[image[:, 0, 0, 0].long()], 3)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("joint", [True, False])
@pytest.mark.parametrize("dice", DICE)
@pytest.mark.parametrize("components", [True, False])
def test_bcp_without_a_box_is_self_training(components, dice, joint, dims, unet, batches, context):
    shared = {"dice": dice, "joint_forward": joint, "components": components}
    one = BidirectionalCopyPaste(unet(dims=dims), BcpOptions(beta=0, **shared)).eval()
    other = SelfTraining(unet(dims=dims), SelfTrainingOptions(**shared)).eval()
    losses = []
    for method in (one, other):
        loss = method.step("student", batches(size=4, dims=dims), context()).loss
        loss.backward()
        losses.append(loss)
    assert losses[0].item() == pytest.approx(losses[1].item(), abs=1e-6)
    for a, b in zip(one.student.parameters(), other.student.parameters()):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-6)
    boxed = BidirectionalCopyPaste(unet(dims=dims), BcpOptions(**shared)).eval()
    assert boxed.step("student", batches(size=4, dims=dims), context()).loss.item() != pytest.approx(losses[1].item())


def test_an_empty_box_leaves_plain_pseudo_label_and_plain_supervised_training(unet, batches, context):
    method = BidirectionalCopyPaste(unet(), BcpOptions(beta=0)).eval()
    batch = batches()
    logs = method.step("student", batch, context()).logs
    u_a, x_b, y_b = batch["unlabelled"].image[0::2], batch["labelled"].image[1::2], batch["labelled"].labels[1::2]
    plain = DiceCE(smooth=None)
    assert logs["loss_in"].item() == pytest.approx(plain(method.student(x_b), y_b).item(), abs=1e-6)
    p_a = largest_component(method.teacher(u_a).argmax(1), 3)
    assert logs["loss_out"].item() == pytest.approx(0.5 * plain(method.student(u_a), p_a).item(), abs=1e-6)


@pytest.mark.parametrize("dice", DICE)
def test_oracle_teacher_gives_supervised_mixed_images(dice, unet, batches, context, stored):
    """Teacher = truth, pseudo_weight 1: the loss of the same composites under their true labels."""
    method = BidirectionalCopyPaste(unet(), BcpOptions(pseudo_weight=1, components=False, dice=dice)).eval()
    batch, ctx = batches(size=4), context()
    truth = torch.randint(3, (4, 16, 16), generator=torch.Generator().manual_seed(1))
    method.teacher = stored(20 * one_hot(torch.cat([truth[0::2], truth[1::2]]), 3))
    loss = method.step("student", batch, ctx).loss
    (x_a, x_b), (y_a, y_b) = halves(batch["labelled"].image), halves(batch["labelled"].labels)
    (u_a, u_b), (t_a, t_b) = halves(batch["unlabelled"].image), halves(truth)
    mask = method.mask((16, 16), ctx.generator("mask"))
    expected = 0.0
    for host, h_label, guest, g_label in ((u_a, t_a, x_a, y_a), (x_b, y_b, u_b, t_b)):
        logits = method.student(paste(host, guest, mask))
        expected += region_dice_ce(logits, paste(h_label, g_label, mask), mask, 1.0, 1.0, dice).item()
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_oracle_teacher_makes_self_training_supervised(unet, batches, context, stored):
    method = SelfTraining(unet(), SelfTrainingOptions(pseudo_weight=1, components=False)).eval()
    batch = batches()
    truth = torch.randint(3, (2, 16, 16), generator=torch.Generator().manual_seed(1))
    method.teacher = stored(20 * one_hot(truth, 3))
    loss = method.step("student", batch, context()).loss
    plain = DiceCE(smooth=None)
    u_a, x_b, y_b = batch["unlabelled"].image[0::2], batch["labelled"].image[1::2], batch["labelled"].labels[1::2]
    expected = plain(method.student(u_a), truth) + plain(method.student(x_b), y_b)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)


def test_image_and_label_get_the_same_mask(unet, batches, context, stored, monkeypatch):
    """Images equal to their labels stay equal to the composite's label, in both directions."""
    batch = batches()
    for stream in ("labelled", "unlabelled"):
        label = torch.randint(3, (4, 16, 16), generator=torch.Generator().manual_seed(len(stream)))
        keep = label if stream == "labelled" else None
        batch[stream] = dataclasses.replace(batch[stream], image=label[:, None].float(), label=keep)
    method = BidirectionalCopyPaste(unet(), BcpOptions(components=False))
    method.teacher = stored(lambda image: one_hot(image[:, 0].long(), 3))
    method.student = student = stored(lambda image: one_hot(image[:, 0].long(), 3))
    labels = []
    monkeypatch.setattr(
        "medkd.segmentation.bcp.region_dice_ce", lambda z, y, *rest: labels.append(y) or region_dice_ce(z, y, *rest)
    )
    method.step("student", batch, context())
    assert torch.equal(student.seen[0][:, 0].long(), torch.cat(labels))


def test_composites_and_weights_of_both_directions(unet, batches, context, stored, monkeypatch):
    """out: unlabelled host (pseudo_weight) with a labelled patch (1). in: the reverse. One mask for both."""
    method = BidirectionalCopyPaste(unet(), BcpOptions(pseudo_weight=0.5))
    batch = batches()
    batch["labelled"].image.fill_(1.0)
    batch["unlabelled"].image.fill_(0.0)
    method.student = student = stored(lambda image: image.repeat(1, 3, 1, 1))
    calls = []
    monkeypatch.setattr("medkd.segmentation.bcp.region_dice_ce", lambda z, y, *rest: calls.append(rest) or z.sum() * 0)
    method.step("student", batch, context())
    (out_mask, *out_weights, _), (in_mask, *in_weights, _) = calls
    assert out_weights == [0.5, 1.0]
    assert in_weights == [1.0, 0.5]
    assert torch.equal(out_mask, in_mask)
    assert (~out_mask).sum() == 100  # floor(2/3 * 16)^2
    out_image, in_image = student.seen[0].chunk(2)
    assert torch.equal(out_image[0, 0] == 0, out_mask)
    assert torch.equal(in_image[0, 0] == 1, in_mask)


def test_one_mask_an_iteration_and_another_the_next(unet, batches, context, stored):
    method = LabelledCopyPaste(unet(), LabelledCopyPasteOptions())
    batch = batches()
    batch["labelled"].image[0::2], batch["labelled"].image[1::2] = 0.0, 1.0
    method.student = student = stored(lambda image: image.repeat(1, 3, 1, 1))
    for step in (0, 0, 1):
        method.step("student", batch, context(step))
    first, again, following = student.seen
    assert torch.equal(first[0], first[1])
    assert torch.equal(first, again)
    assert not torch.equal(first, following)
    method.step("student", {"labelled": batch["labelled"].micro(1, 2)}, context(0))
    assert torch.equal(student.seen[-1][0], first[0])  # a micro-batch has the mask of its iteration


def test_labelled_copy_paste_regional_and_plain(unet, batches, context):
    batch, ctx = batches(), context()
    method = LabelledCopyPaste(unet(), LabelledCopyPasteOptions()).eval()
    (x_a, x_b), (y_a, y_b) = halves(batch["labelled"].image), halves(batch["labelled"].labels)
    mask = method.mask((16, 16), ctx.generator("mask"))
    logits, label = method.student(paste(x_a, x_b, mask)), paste(y_a, y_b, mask)
    regional = region_dice_ce(logits, label, mask, 1.0, 1.0)
    assert method.step("student", batch, ctx).loss.item() == pytest.approx(regional.item(), abs=1e-6)
    plain = LabelledCopyPaste(unet(), LabelledCopyPasteOptions(regional=False)).eval()
    expected = ctx.task.supervised_loss(logits, label)
    assert plain.step("student", batch, ctx).loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_stage_1_in_both_directions_shows_every_pixel_of_every_sample(unet, batches, context, stored):
    """Twice the composites of the published one direction: together they hold what the batch holds."""
    batch, ctx = batches(), context()
    one, both = (LabelledCopyPaste(unet(), LabelledCopyPasteOptions(both_directions=b)) for b in (False, True))
    for method in (one, both):
        method.student = stored(lambda image: image.repeat(1, 3, 1, 1))
        method.step("student", batch, ctx)
    (single,), (double,) = one.student.seen, both.student.seen
    assert torch.equal(double[: len(single)], single)
    first, second = double.chunk(2)
    x_a, x_b = halves(batch["labelled"].image)
    torch.testing.assert_close(first + second, x_a + x_b)
    mask = one.mask((16, 16), ctx.generator("mask"))
    torch.testing.assert_close(second[..., mask], x_b[..., mask])
    alike = LabelledCopyPaste(unet(), LabelledCopyPasteOptions(both_directions=True)).eval()
    x_a, x_b, y_a, y_b = *halves(batch["labelled"].image), *halves(batch["labelled"].labels)
    images = torch.cat([paste(x_a, x_b, mask), paste(x_b, x_a, mask)])
    labels = torch.cat([paste(y_a, y_b, mask), paste(y_b, y_a, mask)])
    expected = region_dice_ce(alike.student(images), labels, mask, 1.0, 1.0)
    assert alike.step("student", batch, ctx).loss.item() == pytest.approx(expected.item(), abs=1e-6)


def test_micro_batches_keep_every_pair_together(batches):
    batch = batches(size=8)["labelled"]
    whole = halves(batch.image)
    parts = [halves(batch.micro(i, 2).image) for i in range(2)]
    for half in range(2):
        assert torch.equal(torch.cat([p[half] for p in parts]), whole[half])


@pytest.mark.parametrize("method", [BidirectionalCopyPaste, SelfTraining])
def test_no_gradient_reaches_the_teacher(method, unet, batches, context):
    options = BcpOptions() if method is BidirectionalCopyPaste else SelfTrainingOptions()
    made = method(unet(), options).train()
    made.step("student", batches(), context()).loss.backward()
    assert all(p.grad is None and not p.requires_grad for p in made.teacher.parameters())
    assert all(p.grad is not None for p in made.student.parameters())


def test_pseudo_labels_ignore_a_shift_of_all_logits(stored):
    logits = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    shift = 10 * torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    image = torch.zeros(2, 1, 8, 8)
    (plain,) = pseudo_labels(stored(logits), [image], True, None, True)
    (shifted,) = pseudo_labels(stored(logits + shift), [image], True, None, True)
    assert torch.equal(plain, shifted)
    assert plain.dtype == torch.int64
    assert torch.equal(plain, largest_component(logits.argmax(1), 3))


def test_teacher_follows_the_student(unet, context):
    method = BidirectionalCopyPaste(unet(), BcpOptions()).train()
    start = [p.clone() for p in method.student.parameters()]
    with torch.no_grad():
        for p in method.student.parameters():
            p.add_(1.0)
    method.after_step(context())
    for p, s in zip(method.teacher.network.parameters(), start):
        torch.testing.assert_close(p, s + 0.01)
    assert not any(m.training for m in method.teacher.modules())


@pytest.mark.parametrize(("preset", "buffers"), [("faithful_2d", "blend"), ("faithful_3d", "own")])
def test_faithful_presets(preset, buffers):
    o = BcpOptions(preset=preset)
    assert (o.inclusive_end, o.joint_forward, o.pseudo_weight, o.beta) == (False, False, 0.5, 2 / 3)
    assert (o.teacher.decay, o.teacher.warmup, o.teacher.mode, o.teacher.buffers) == (0.99, False, "train", buffers)
    assert BcpOptions(preset=preset, pseudo_weight=1.0).pseudo_weight == 1.0
