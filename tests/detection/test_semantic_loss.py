"""Card grounded_teacher.md, section 6, items 7 to 11: severities, weights, gradient and the degenerate cases."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from medkd.detection.semantic_loss import SemanticAwareLoss, semantic_aware_loss, semantic_weights, severity
from medkd.engine.randomness import generator
from medkd.errors import InputError

C = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])
GT = torch.tensor([0, 0, 0, 1, 1, 3, 3, 2])
PREDICTED = torch.tensor([0, 0, 1, 1, 0, 0, 3, 3])
WEIGHTS = [0.932083, 0.932083, 0.841592, 1.111058, 1.183184, 1, 1, 1]


def logits_of(predicted: Tensor, classes: int = 3, dtype: torch.dtype = torch.float64) -> Tensor:
    z = torch.randn(len(predicted), classes + 1, generator=generator("z"), dtype=dtype)
    return z.scatter_add(1, predicted[:, None], torch.full((len(predicted), 1), 9.0, dtype=dtype))


def test_severities_by_hand() -> None:
    expected = [[0.447214, 0.353553, 0.353553], [0.707107, 0.632456, 0.408248], [0.632456, 0.774597, 0.707107]]
    assert torch.allclose(severity(C), torch.tensor(expected), atol=1e-6)
    assert torch.allclose(severity(C, "probability"), torch.where(torch.eye(3) > 0, 1 - C, C))


def test_weights_by_hand() -> None:
    assert torch.allclose(semantic_weights(GT, PREDICTED, C), torch.tensor(WEIGHTS), atol=1e-6)
    raw = semantic_weights(GT, PREDICTED, C, lam=0.0)[:5] * 0.517509
    assert torch.allclose(raw, torch.tensor([0.447214, 0.447214, 0.353553, 0.632456, 0.707107]), atol=1e-6)


def test_the_mean_over_foreground_is_one_and_the_bounds_hold() -> None:
    for seed in range(20):
        g = generator("random", seed)
        c = torch.rand(5, 5, generator=g)
        gt, predicted = (torch.randint(0, 6, (300,), generator=g) for _ in range(2))
        for lam in (0.0, 0.5, 1.0, 10.0):
            w = semantic_weights(gt, predicted, c / c.sum(1, keepdim=True), lam)
            both = (gt < 5) & (predicted < 5)
            assert w[both].mean() == pytest.approx(1.0, abs=1e-5)
            assert (w[~both] == 1).all()
            assert w[both].min() >= lam / (1 + lam) - 1e-6
            assert w[both].max() <= (both.sum() + lam) / (1 + lam)


def test_large_lam_is_plain_cross_entropy() -> None:
    z, y = logits_of(PREDICTED), F.one_hot(GT, 4).double()
    assert semantic_aware_loss(z, y, GT, C, lam=1e9).item() == pytest.approx(F.cross_entropy(z, GT).item())
    assert semantic_aware_loss(z, y, GT, C, mode="none").item() == pytest.approx(F.cross_entropy(z, GT).item())


def test_a_perfect_matrix_weighs_nothing() -> None:
    """The published code gives correct foreground regions weight 0.5 here."""
    right = torch.tensor([0, 1, 2, 3])
    assert semantic_weights(right, right, torch.eye(3)).tolist() == [1, 1, 1, 1]


def test_a_uniform_matrix_knows_only_right_and_wrong() -> None:
    for c in (torch.full((4, 4), 0.25), torch.zeros(4, 4)):  # a matrix never seen is filled in as uniform
        s = severity(c)
        expected = torch.where(torch.eye(4) > 0, torch.tensor(0.75).sqrt(), 1.0)
        assert torch.allclose(s, expected)


def test_missing_information_is_filled_in_by_kind() -> None:
    c = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0], [0.5, 0.0, 0.5]])
    s = severity(c)
    assert torch.allclose(s[0], torch.tensor([(2 / 3) ** 0.5, 3**0.5, (3e-3) ** 0.5]))
    assert torch.allclose(s[1], torch.tensor([1.0, (2 / 3) ** 0.5, 1.0]))
    assert torch.allclose(s[2], torch.tensor([1.0, (2e-3) ** 0.5, 0.5**0.5]))


def test_every_row_gets_the_same_transform() -> None:
    """In the published code a row with a filled-in entry sums to more than 1 and silently keeps its raw values."""
    c = torch.tensor([[0.9, 0.1, 0.0], [0.2, 0.8, 0.0], [0.1, 0.2, 0.7]])
    assert torch.allclose(severity(c)[0, :2], torch.tensor([0.1**0.5, (0.1 / 0.9) ** 0.5]))


def test_soft_targets_are_weighed_whatever_their_float_sum() -> None:
    """The published code exempts rows whose softmax happens not to sum to exactly 1: a random quarter of them."""
    soft = torch.randn(400, 4, generator=generator("soft")).softmax(1)
    assert (soft.sum(1) != 1).any()  # float32: some sum to 1 - 6e-8
    gt, z = torch.full((400,), 1), logits_of(torch.full((400,), 0), dtype=torch.float32)
    per_row = -(soft * z.log_softmax(1)).sum(1)
    assert semantic_aware_loss(z, soft, gt, C, 0.0).item() == pytest.approx(per_row.mean().item(), rel=1e-5)
    mixed_gt = torch.where(torch.arange(400) < 200, 1, 3)
    w = semantic_weights(mixed_gt, z.argmax(1), C, 0.0)
    assert semantic_aware_loss(z, soft, mixed_gt, C, 0.0).item() == pytest.approx((w * per_row).mean().item(), rel=1e-5)


def test_the_gradient_is_the_weighted_one_and_none_reaches_the_matrix() -> None:
    z = logits_of(PREDICTED).requires_grad_()
    y = F.one_hot(GT, 4).double()
    c = C.double().requires_grad_()
    semantic_aware_loss(z, y, GT, c).backward()
    expected = torch.tensor(WEIGHTS)[:, None] * (z.softmax(1) - y) / len(GT)
    assert torch.allclose(z.grad, expected.detach(), atol=1e-6)
    assert c.grad is None
    assert torch.autograd.gradcheck(lambda v: semantic_aware_loss(v, y, GT, C.double()), z)


def test_one_class_without_background_is_plain_cross_entropy() -> None:
    """Right and wrong calls of background, and every right call weighs the same; the published code halves those."""
    gt, predicted = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    for c in (torch.ones(1, 1), torch.tensor([[0.97]]), torch.zeros(1, 1)):
        assert semantic_weights(gt, predicted, c).tolist() == [1, 1, 1, 1]


def test_a_background_column_weighs_missed_lesions() -> None:
    c = torch.tensor([[0.8, 0.2]])
    gt, predicted = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    raw = torch.tensor([0.2**0.5, (0.2 / 0.8) ** 0.5])
    expected = torch.cat([(raw / raw.mean() + 1) / 2, torch.ones(2)])
    assert torch.allclose(semantic_weights(gt, predicted, c), expected)


def test_the_weight_of_a_target_multiplies_its_terms() -> None:
    z, y = logits_of(PREDICTED), F.one_hot(GT, 4).double()
    half = semantic_aware_loss(z, y, GT, C, weight=torch.full((8,), 0.5))
    assert half.item() == pytest.approx(semantic_aware_loss(z, y, GT, C).item() / 2)


def test_two_ranks_are_one() -> None:
    """Each rank divides by the sums of both; the mean of their losses is then the whole batch's."""
    z, y = logits_of(PREDICTED), F.one_hot(GT, 4).double()
    whole = semantic_aware_loss(z, y, GT, C)
    both = (GT < 3) & (PREDICTED < 3)
    raw = severity(C)[GT.clamp(max=2), PREDICTED.clamp(max=2)].where(both, 0)
    sums = [torch.stack([raw.sum(), both.sum().to(raw)]), None, torch.tensor(8.0)]
    losses = []
    for rows in (slice(0, 3), slice(3, 8)):
        answers = iter(sums)

        def total(values: Tensor, answers=answers) -> Tensor:  # what the other rank adds
            answer = next(answers)
            return 2 * values if answer is None else answer.to(values)

        losses.append(semantic_aware_loss(z[rows], y[rows], GT[rows], C, total=total))
    assert torch.stack(losses).mean().item() == pytest.approx(whole.item())


def test_no_regions_give_zero_with_a_graph() -> None:
    z = torch.zeros(0, 4, requires_grad=True)
    loss = SemanticAwareLoss()(z, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), C)
    loss.backward()
    assert loss.item() == 0


def test_bfloat16_logits_give_a_float32_loss() -> None:
    loss = SemanticAwareLoss()(logits_of(PREDICTED).bfloat16(), F.one_hot(GT, 4).float(), GT, C)
    assert loss.dtype == torch.float32


def test_bad_input_is_refused() -> None:
    z, y = logits_of(PREDICTED), F.one_hot(GT, 4).double()
    with pytest.raises(InputError, match="lam is -1"):
        SemanticAwareLoss(-1.0)
    with pytest.raises(ValueError, match="target has shape"):
        semantic_aware_loss(z, y[:, :3], GT, C)
    with pytest.raises(ValueError, match="columns"):
        semantic_aware_loss(z, y, GT, torch.eye(2))
