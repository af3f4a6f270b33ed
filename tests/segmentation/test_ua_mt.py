"""UA-MT (card semi_supervised_baselines.md 6, items 4 and 5)."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from medkd.segmentation.options import UaMtOptions
from medkd.segmentation.ua_mt import (
    UncertaintyAwareMeanTeacher,
    certain_squared_difference,
    entropy,
    entropy_threshold,
)


def pixels(*values: tuple[float, ...]) -> torch.Tensor:
    """(1, K, 1, n) probabilities of n pixels."""
    return torch.tensor(values).T.reshape(1, len(values[0]), 1, len(values))


@pytest.mark.parametrize(
    ("share", "value"), [(0, 0.521028), (0.25, 0.530267), (0.5, 0.569508), (0.75, 0.646640), (1, 0.693147)]
)
def test_threshold_of_two_classes(share, value):
    assert entropy_threshold(2, int(share * 6000), 6000) == pytest.approx(value, abs=1e-6)


def test_mask_of_the_card():
    """The 1e-6 inside the logarithm moves the entropies of the card by 2e-6."""
    h = entropy(pixels((0.9, 0.1), (0.6, 0.4), (0.5, 0.5)))
    assert h.flatten().tolist() == pytest.approx([0.325083, 0.673012, 0.693147], abs=3e-6)
    assert (h < entropy_threshold(2, 0, 6000)).flatten().tolist() == [True, False, False]


def test_hand_value_of_the_loss():
    student, teacher = pixels((0.7, 0.3), (0.2, 0.8)), pixels((0.9, 0.1), (0.5, 0.5))
    certain = torch.tensor([1.0, 0.0]).reshape(1, 1, 2)
    assert certain_squared_difference(student, teacher, certain, 2).item() == pytest.approx(0.04, abs=1e-6)


def test_nothing_certain_gives_zero_attached_to_the_graph():
    student = pixels((0.7, 0.3)).requires_grad_()
    loss = certain_squared_difference(student, pixels((0.9, 0.1)), torch.zeros(1, 1, 1), 2)
    assert loss.item() == 0
    loss.backward()
    assert (student.grad == 0).all()


def test_gradients_and_wrong_shapes():
    student, target = torch.rand(2, 2, 3, 4, 5, dtype=torch.float64).softmax(2)
    certain = (torch.rand(2, 4, 5) < 0.5).double()
    student.requires_grad_()
    assert torch.autograd.gradcheck(lambda s: certain_squared_difference(s, target, certain, 3), student)
    with pytest.raises(ValueError, match=r"certain \(2, 1, 5\)"):
        certain_squared_difference(student, target, certain[:, :1], 3)


def test_nine_noisy_passes_an_update(unet, batches, context, stored):
    """Eight passes in four forwards of the doubled batch, and the target's own: all with fresh noise."""
    method = UncertaintyAwareMeanTeacher(unet(), UaMtOptions())
    method.teacher.network = teacher = stored(lambda image: image.repeat(1, 3, 1, 1))
    batch = batches()
    method.step("student", batch, context())
    assert sorted(len(image) for image in teacher.seen) == [4, 8, 8, 8, 8]
    passes = torch.cat(teacher.seen).reshape(9, -1)
    clean = batch["unlabelled"].image.flatten()
    assert ((passes - clean).abs().amax(1) <= 0.2 + 1e-6).all()
    assert len({tuple(p.tolist()) for p in passes}) == 9


def test_mean_prediction_is_the_mean_of_the_passes(unet, batches, stored):
    method = UncertaintyAwareMeanTeacher(unet(), UaMtOptions(passes=4))
    method.teacher.network = teacher = stored(lambda image: torch.cat([image, -image, image * 0], 1))
    unlabelled = batches()["unlabelled"]
    mean = method.mean_prediction(unlabelled)
    images = torch.cat(teacher.seen).reshape(4, 4, 1, 16, 16)
    each = torch.cat([images, -images, images * 0], 2).softmax(2)
    torch.testing.assert_close(mean, each.mean(0))


@pytest.mark.parametrize(("port", "certain", "scale"), [(False, True, 4), (True, False, 2)])
def test_the_port_keeps_the_two_class_constants(port, certain, scale, unet, batches, context, stored):
    """Four classes, two of them likely: entropy 0.9 is below 3/4 ln 4, but not below 3/4 ln 2."""
    logits = torch.tensor([0.45, 0.45, 0.05, 0.05]).log().reshape(1, 4, 1, 1).expand(4, 4, 16, 16)
    method = UncertaintyAwareMeanTeacher(unet(classes=4), UaMtOptions(two_class_entropy=port))
    method.teacher.network = stored(lambda image: logits.repeat(len(image) // 4, 1, 1, 1))
    unlabelled = batches()["unlabelled"]
    target = logits.softmax(1)
    student = torch.full_like(target, 0.25)
    loss, logs = method.consistency(student, target, unlabelled, context())
    assert logs["certain"] == float(certain)
    assert loss.item() == pytest.approx(4 * 0.2**2 / scale * certain, abs=1e-6)
    assert entropy_threshold(4, 0, 1) == pytest.approx(0.751684 * math.log(4), abs=1e-5)


def test_no_delay_and_an_even_number_of_passes(unet, context):
    assert UncertaintyAwareMeanTeacher(unet(), UaMtOptions()).weight(context(0, 30_000)) == pytest.approx(0.000673795)
    with pytest.raises(ValidationError, match="passes is 5"):
        UaMtOptions(passes=5)
