"""Card grounded_teacher.md, section 6, items 1 to 6 and the mixing partners of 3.3, by hand."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor

from medkd.detection.relational import RelationalContext, blended, cubic_decay, majority, partners
from medkd.engine.randomness import generator
from medkd.errors import InputError

GT = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3])
PREDICTED = torch.tensor([0, 0, 1, 1, 0, 3, 0, 3])
C = torch.tensor([[0.8, 0.1, 0.1], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]])


def step(context: RelationalContext, gt: Tensor = GT, predicted: Tensor = PREDICTED) -> None:
    context.collect(context.counts(gt, predicted))
    context.update()


def close(a: Tensor, b: list[list[float]]) -> bool:
    return torch.allclose(a, torch.tensor(b), atol=1e-6)


def test_counts_hold_only_what_both_call_foreground() -> None:
    assert RelationalContext(3).counts(GT, PREDICTED).tolist() == [[2, 1, 0], [1, 1, 0], [0, 0, 0]]
    with_background = RelationalContext(3, include_background=True)
    assert with_background.counts(GT, PREDICTED).tolist() == [[2, 1, 0, 0], [1, 1, 0, 0], [0, 0, 0, 1]]


def test_one_update_by_hand() -> None:
    context = RelationalContext(3)
    context.start_from(C)
    step(context)
    assert close(context.matrix(), [[0.798667, 0.102333, 0.099], [0.302, 0.599, 0.099], [0.2, 0.3, 0.5]])
    assert torch.equal(context.matrix()[2], C[2])  # the unseen row to the last bit
    assert context.rows_seen.tolist() == [1, 1, 0]


def test_from_zeros() -> None:
    plain = RelationalContext(3, momentum=0.5, bias_correct=False)
    step(plain)
    assert close(plain.matrix(), [[1 / 3, 1 / 6, 0], [0.25, 0.25, 0], [0, 0, 0]])
    corrected = RelationalContext(3, momentum=0.99)
    step(corrected)
    assert close(corrected.matrix(), [[2 / 3, 1 / 3, 0], [0.5, 0.5, 0], [0, 0, 0]])


def test_the_same_counts_for_ever_are_the_fixed_point() -> None:
    context = RelationalContext(3, warmup=50)
    gt = torch.randint(0, 4, (200,), generator=generator("gt"))
    predicted = torch.randint(0, 4, (200,), generator=generator("predicted"))
    for _ in range(400):
        step(context, gt, predicted)
        assert torch.allclose(context.matrix().sum(1), torch.ones(3), atol=1e-5)
    counts = context.counts(gt, predicted).float()
    assert torch.allclose(context.matrix(), counts / counts.sum(1, keepdim=True), atol=1e-5)


def test_without_correction_a_row_sums_to_one_minus_the_product_of_decays() -> None:
    context = RelationalContext(3, momentum=0.9, bias_correct=False)
    for _ in range(3):
        step(context)
    assert torch.allclose(context.matrix().sum(1), torch.tensor([1 - 0.9**3, 1 - 0.9**3, 0.0]))


def test_the_cubic_of_the_momentum() -> None:
    """T_b = 20000: the labelled stream's warm-up is T_b / 2 updates; the other's starts at T_b, counting from 1."""
    assert [float(cubic_decay(k, 10_000)) for k in (0, 2500, 5000, 10_000, 15_000)] == pytest.approx(
        [0.5, 0.50765625, 0.56125, 0.99, 0.99]
    )
    assert [float(cubic_decay(k - 20_000 + 1, 10_000)) for k in (25_000, 30_000)] == pytest.approx(
        [0.561287, 0.99], abs=1e-6
    )


def test_relabelling_the_classes_permutes_rows_and_columns() -> None:
    order = torch.tensor([2, 0, 1, 3])  # old class i is called order[i]
    one, other = RelationalContext(3), RelationalContext(3)
    step(one)
    step(other, order[GT], order[PREDICTED])
    new = other.matrix()
    assert torch.equal(new[order[:3]][:, order[:3]], one.matrix())


def test_two_halves_of_a_batch_are_the_batch() -> None:
    """What two ranks do: counts are added before they are normalised. Averaging matrices would differ."""
    whole, halves = RelationalContext(3), RelationalContext(3)
    step(whole)
    parts = [halves.counts(GT[s], PREDICTED[s]) for s in (slice(0, 3), slice(3, 8))]
    halves.collect(parts[0] + parts[1])
    halves.update()
    assert torch.equal(whole.matrix(), halves.matrix())
    micro = RelationalContext(3)  # micro-batches come one after the other
    for number, part in enumerate(parts):
        micro.collect(part, first=number == 0)
    micro.update()
    assert torch.equal(whole.matrix(), micro.matrix())


def test_counts_of_a_skipped_iteration_are_forgotten() -> None:
    context, reference = RelationalContext(3), RelationalContext(3)
    context.collect(context.counts(PREDICTED, GT))  # no update: the step was skipped
    step(context)
    step(reference)
    assert torch.equal(context.matrix(), reference.matrix())


def test_the_state_restores_matrix_and_counters() -> None:
    context, other = RelationalContext(3, warmup=7), RelationalContext(3, warmup=7)
    for _ in range(3):
        step(context)
    other.load_state_dict(context.state_dict())
    assert torch.equal(other.matrix(), context.matrix())
    assert other.updates == 3
    for c in (context, other):
        step(c, PREDICTED, GT)
    assert torch.equal(other.matrix(), context.matrix())


def test_no_gradient_enters() -> None:
    context = RelationalContext(3)
    step(context, GT, torch.randn(8, 4, requires_grad=True).argmax(1))
    assert not context.matrix().requires_grad
    assert not list(context.parameters())


def test_the_majority_is_told_by_behaviour() -> None:
    assert majority(C).tolist() == [True, False, False]  # mean of the diagonal 0.6333; 0.6 is below
    assert majority(torch.eye(3)).tolist() == [False] * 3  # nobody is above an equal mean


def test_partners_by_hand() -> None:
    """Class 0 is the majority: its column without itself. The others: their rows, themselves included."""
    assert torch.equal(partners(C, target=False), torch.tensor([[0, 0.3, 0.2], [0.3, 0.6, 0.1], [0.2, 0.3, 0.5]]))
    assert torch.equal(partners(C, target=True), torch.tensor([[0, 0.3, 0.2], [0, 0, 0], [0, 0, 0]]))
    with_background = torch.cat([0.9 * C, torch.full((3, 1), 0.1)], 1)
    assert partners(with_background, target=False).shape == (3, 3)


def test_the_blend_from_source_to_target() -> None:
    target = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [0, 0, 0]])
    assert torch.equal(blended(C, target, 0, 100), C)
    half = blended(C, target, 50, 100)
    assert torch.allclose(half[:2], (C[:2] + target[:2]) / 2)
    assert torch.equal(half[2], C[2])  # a class the target has not shown keeps the source's row
    assert torch.equal(blended(C, target, 200, 100)[:2], target[:2])


def test_one_class_is_inert_and_says_so() -> None:
    with pytest.warns(UserWarning, match="of one class is"):
        context = RelationalContext(1)
    assert context.inert
    for _ in range(25):
        step(context, torch.tensor([0, 0, 1]), torch.tensor([0, 1, 0]))
    assert torch.allclose(context.matrix(), torch.ones(1, 1))
    assert torch.equal(partners(context.matrix(), target=False), context.matrix())  # meets only itself
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not RelationalContext(1, include_background=True).inert


def test_bad_options_are_refused() -> None:
    for values in ({"classes": 0}, {"classes": 2, "momentum": 1.0}, {"classes": 2, "warmup": -1}):
        with pytest.raises(InputError, match="relational context"):
            RelationalContext(**values)
    with pytest.raises(ValueError, match="shape"):
        RelationalContext(3).start_from(torch.eye(2))
