"""UniMatch (card semi_supervised_baselines.md 6, items 8 and 9; its masked Dice, item 7, is in test_region_losses)."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from medkd.engine.randomness import Draws
from medkd.errors import InputError
from medkd.networks.build import encoder_levels
from medkd.networks.options import SegResNetOptions
from medkd.segmentation import unimatch
from medkd.segmentation.losses import one_hot, soft_dice_loss
from medkd.segmentation.options import UniMatchOptions
from medkd.segmentation.unimatch import UniMatch, cutmix_boxes, doubled_features

# Losses


def test_four_losses_of_one_give_one(unet, batches, context, task, monkeypatch):
    one = torch.ones((), requires_grad=True)
    monkeypatch.setattr(unimatch, "soft_dice_loss", lambda *_: one)
    constant = dataclasses.replace(task, supervised_loss=lambda *_: one)
    output = UniMatch(unet(), UniMatchOptions()).step("student", batches(), context(task=constant))
    assert output.loss == 1


@pytest.mark.parametrize(("term", "value"), [("strong_1", 0.125), ("strong_2", 0.125), ("feature", 0.25)])
def test_weight_of_each_unlabelled_loss(term, value, unet, batches, context, task, monkeypatch):
    """The losses are computed in the order feature, strong 1, strong 2."""
    losses = iter([torch.tensor(float(term == name)) for name in ("feature", "strong_1", "strong_2")])
    monkeypatch.setattr(unimatch, "soft_dice_loss", lambda *_: next(losses))
    silent = dataclasses.replace(task, supervised_loss=lambda *_: torch.zeros(()))
    assert UniMatch(unet(), UniMatchOptions()).step("student", batches(), context(task=silent)).loss == value


def test_threshold_above_one_leaves_half_the_supervised_loss(unet, batches, context):
    method = UniMatch(unet(), UniMatchOptions(threshold=1.01)).train()
    output = method.step("student", batches(), context())
    assert output.loss.item() == output.logs["loss_labelled"].item() / 2
    assert output.logs["confident"] == 0
    output.loss.backward()
    gradients = [p.grad.clone() for p in method.student.parameters()]
    assert all(torch.isfinite(g).all() for g in gradients)


def test_a_confident_network_is_trained_on_its_own_labels(unet, batches, context):
    """Threshold 0, no boxes: the Dice of the strong views to the labels of the weak one, by hand in eval mode."""
    method = UniMatch(unet(), UniMatchOptions(threshold=0, cutmix=0, feature_dropout=0)).eval()
    output = method.step("student", batches(), context())
    u = batches()["unlabelled"].image[0::2]
    z = method.student(u)
    expected = soft_dice_loss(z.softmax(1), one_hot(z.argmax(1), 3), smooth=1e-5)
    assert output.logs["loss_feature"].item() == pytest.approx(expected.item(), abs=1e-6)
    assert output.logs["confident"] == 1


# CutMix


def test_without_boxes_nothing_comes_from_v(unet, batches, context):
    def loss(change: float) -> float:
        method = UniMatch(unet(), UniMatchOptions(threshold=0, cutmix=0, feature_dropout=0)).train()
        batch = batches()
        batch["unlabelled"].image[1::2] += change
        return method.step("student", batch, context()).loss.item()

    assert loss(0.0) == loss(5.0)


class Recorder(nn.Module):
    """A one-to-one network: class 1 where the image is bright, the more certain the brighter."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def forward(self, image):
        self.seen.append(image)
        return torch.cat([torch.zeros_like(image), 4 * (image - 0.5)], 1).requires_grad_()


def test_inside_the_box_image_label_and_confidence_come_from_v(batches, context, monkeypatch, unet):
    method = UniMatch(unet(), UniMatchOptions(cutmix=1, threshold=0.6))
    method.student, method.levels = Recorder(), []
    monkeypatch.setattr(unimatch, "doubled_features", doubled_by_hand)
    monkeypatch.setattr(unimatch, "apply_view", lambda image, label, view: (image, label))  # strong view = weak view
    losses = []
    monkeypatch.setattr(unimatch, "soft_dice_loss", lambda *a: losses.append(a) or soft_dice_loss(*a))
    batch = batches(size=8, classes=2)
    method.step("student", batch, context())
    u, v = batch["unlabelled"].image[0::2], batch["unlabelled"].image[1::2]
    draws = batch["unlabelled"].draws
    strong = method.student.seen[-1].chunk(2)
    for i, name in enumerate(("strong_1", "strong_2")):
        box = cutmix_boxes(dataclasses.replace(draws, scope=(*draws.scope, name)), (16, 16), 1.0)[0::2]
        assert box.flatten(1).any(1).all()
        mixed = torch.where(box[:, None], v, u)
        assert torch.equal(strong[i], mixed)
        _, target, kept, *_ = losses[1 + i]  # the feature loss is first
        assert torch.equal(target.argmax(1), (mixed[:, 0] > 0.5).long())
        confidence = torch.cat([torch.zeros_like(mixed), 4 * (mixed - 0.5)], 1).softmax(1).amax(1)
        assert torch.equal(kept, confidence >= 0.6)
    assert not torch.equal(strong[0], strong[1])

    # The feature loss holds the output of the dropped features of u against the labels of its clean ones.
    probabilities, target, kept, *_ = losses[0]
    z = torch.cat([torch.zeros_like(u), 4 * (u - 0.5)], 1)
    assert torch.equal(probabilities, (-z).softmax(1))
    assert torch.equal(target.argmax(1), z.argmax(1))
    assert torch.equal(kept, z.softmax(1).amax(1) >= 0.6)


class doubled_by_hand:
    """Stands in for the hooks where a network has no levels: the second half of the output is minus the first."""

    def __init__(self, network, levels, rate):
        self.network = network

    def __enter__(self):
        self.handle = self.network.register_forward_hook(lambda _m, _i, output: torch.cat([output, -output]))

    def __exit__(self, *_):
        self.handle.remove()


def test_boxes_in_a_square_image():
    boxes = cutmix_boxes(Draws((0,), 1000), (200, 200), 0.5)
    present = boxes.flatten(1).any(1)
    assert present.float().mean() == pytest.approx(0.5, abs=0.05)
    height, width = (boxes[present].any(3 - axis).sum(1) for axis in (1, 2))
    area = boxes[present].flatten(1).sum(1)
    assert torch.equal(area, height * width)  # one full rectangle
    share, aspect = area / 200**2, height / width
    assert share.min() > 0.02 - 0.004
    assert share.max() <= 0.4
    assert share.mean() == pytest.approx(0.21, abs=0.02)
    assert aspect.min() > 0.3 - 0.01
    assert aspect.max() < 3.34 + 0.1
    assert all(edge.any() for edge in (boxes[:, 0], boxes[:, -1], boxes[:, :, 0], boxes[:, :, -1]))


@pytest.mark.parametrize("shape", [(40, 25), (24, 24, 20), (64, 64, 4)])
def test_boxes_in_any_image_are_inside_and_of_the_share(shape):
    boxes = cutmix_boxes(Draws((1,), 300), shape, 1.0)
    assert boxes.shape == (300, *shape)
    sides = []
    for axis in range(len(shape)):
        others = [a + 1 for a in range(len(shape)) if a != axis]
        sides.append(boxes.any(others[0]) if len(others) == 1 else boxes.any(others[1]).any(others[0]))
    lengths = torch.stack([s.sum(1) for s in sides])
    assert torch.equal(boxes.flatten(1).sum(1), lengths.prod(0))
    assert (lengths >= 1).all()
    share = boxes.flatten(1).float().mean(1)
    assert share.max() <= 0.4
    assert share.mean() > 0.08  # lengths are rounded down


def test_boxes_are_keyed_to_the_sample():
    whole = cutmix_boxes(Draws((3,), 8), (32, 32), 0.5)
    part = cutmix_boxes(Draws((3,), 4, start=4, total=8), (32, 32), 0.5)
    assert torch.equal(part, whole[4:])
    assert not cutmix_boxes(Draws((3,), 8), (32, 32), 0.0).any()


# Features


@pytest.mark.parametrize("dims", [2, 3])
def test_the_decoder_sees_clean_and_dropped_features(unet, dims):
    """Against the encoder and the decoder called by hand: the encoder ran on the single batch, and the second half of
    every level is its clean half with each channel zero or doubled."""
    network = unet(dims=dims).train()
    image = torch.randn(2, 1, *[32] * dims)
    levels = encoder_levels(network)
    features, decoded = {}, {}
    with doubled_features(network, levels, 0.5):
        spies = [
            network.get_submodule(level).register_forward_hook(
                lambda _m, i, o, level=level: features.update({level: (len(i[0]), o)})
            )
            for level in levels
        ]
        output = network(image)
        for spy in spies:
            spy.remove()
    assert output.shape == (4, 3, *image.shape[2:])

    x = image
    for level in levels:
        x = network.get_submodule(level)(x)
        samples, (clean, dropped) = features[level][0], features[level][1].chunk(2)
        assert samples == 2
        torch.testing.assert_close(clean, x)
        kept = (dropped != 0).flatten(2).any(2)
        factor = 2.0 * kept.reshape(*kept.shape, *[1] * dims)
        torch.testing.assert_close(dropped, factor * clean)
        decoded[level] = features[level][1]
    skips = list(decoded.values())
    assert any((skip.flatten(2) == 0).all(2).any() for skip in skips)
    d = skips.pop()
    for number in (4, 3, 2, 1):
        d = network.get_submodule(f"upcat_{number}")(d, skips.pop())
    torch.testing.assert_close(output, network.final_conv(d))


def test_rate_zero_shows_the_same_twice_and_hooks_are_gone(unet):
    network = unet().eval()
    image = torch.randn(2, 1, 16, 16)
    before = network(image)
    with doubled_features(network, encoder_levels(network), 0.0):
        one, other = network(image).chunk(2)
    torch.testing.assert_close(one, before)
    torch.testing.assert_close(other, before)
    with pytest.raises(KeyError), doubled_features(network, encoder_levels(network), 0.0):
        raise KeyError
    assert torch.equal(network(image), before)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


def test_channels_are_dropped_as_often_as_asked(unet):
    network = unet().train()
    dropped = []
    with doubled_features(network, ["conv_0"], 0.25):
        network.conv_0.register_forward_hook(lambda _m, _i, o: dropped.append(o.chunk(2)[1]))
        network(torch.randn(400, 1, 16, 16))
    zero = (dropped[0].flatten(2) == 0).all(2)
    assert zero.float().mean() == pytest.approx(0.25, abs=0.04)


# Students and networks


def test_labels_of_v_come_from_eval_mode_and_the_mode_is_restored(unet, batches, context):
    method = UniMatch(unet(dropout=0.5), UniMatchOptions()).train()
    v = batches()["unlabelled"].image[1::2]
    (one, c1), (two, c2) = method.labels_in_eval_mode(v), method.labels_in_eval_mode(v)
    assert torch.equal(one, two)
    assert torch.equal(c1, c2)
    assert not c1.requires_grad
    assert all(m.training for m in method.student.modules())
    method.student.eval()
    method.labels_in_eval_mode(v)
    assert not any(m.training for m in method.student.modules())


def test_no_gradient_flows_through_labels_or_confidence(unet, batches, context):
    """Both are detached: with the labelled and feature losses away, u's weak view gets no gradient."""
    method = UniMatch(unet(), UniMatchOptions(threshold=0, feature_dropout=0)).eval()
    batch = batches()
    with torch.no_grad():
        label, confidence = unimatch.hard_labels(method.student(batch["unlabelled"].image))
    logits = method.student(batch["unlabelled"].image)
    again, sure = unimatch.hard_labels(logits)
    assert torch.equal(label, again)
    torch.testing.assert_close(sure, confidence)
    assert not again.requires_grad
    assert not sure.requires_grad
    assert sure.dtype == torch.float32
    assert sure.max() == pytest.approx(F.softmax(logits, 1).max().item())


def test_networks_without_known_levels_are_refused():
    network = SegResNetOptions().build(2, 1, 3, (16, 16))
    with pytest.raises(InputError, match=r"levels of SegResNet are not known; allowed: network.kind=BasicUNet"):
        UniMatch(network, UniMatchOptions())


def test_an_odd_unlabelled_batch_is_refused(unet, batches, context):
    with pytest.raises(InputError, match="3 samples"):
        UniMatch(unet(), UniMatchOptions()).step("student", batches(size=3), context())
