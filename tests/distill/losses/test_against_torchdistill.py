"""The same losses in torchdistill (PyPI): equal on random tensors, or which of the two is wrong, and why.

Equal means value and gradient: a mean that is taken for a constant would not show in the value.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from medkd.distill.losses.attention_transfer import attention_transfer_loss
from medkd.distill.losses.crd import CRDLoss
from medkd.distill.losses.dist import dist_loss
from medkd.distill.losses.fitnets import FitNetLoss
from medkd.distill.losses.hinton import hinton_kd_loss
from medkd.distill.losses.reviewkd import Fusion, ReviewKDLoss, hierarchical_context_loss
from medkd.distill.losses.rkd import rkd_loss
from medkd.distill.losses.similarity_preserving import similarities, similarity_preserving_loss
from medkd.engine.randomness import generator

theirs = pytest.importorskip("torchdistill.losses.mid_level", reason="torchdistill is in the extra `test`")
wrapper = pytest.importorskip("torchdistill.models.wrapper", reason="torchdistill is in the extra `test`")
BOTH = {
    "student_module_path": "m",
    "student_module_io": "output",
    "teacher_module_path": "m",
    "teacher_module_io": "output",
}


def io(output: Any) -> dict[str, dict[str, Any]]:
    """What torchdistill's hooks would have read of module `m`."""
    return {"m": {"output": output}}


def two(*shape: int) -> tuple[Tensor, Tensor]:
    """Student, which collects gradient, and teacher."""
    one, other = 2 * torch.randn(2, *shape, generator=generator(0, *shape))
    return one.requires_grad_(), other


def same(ours: Tensor, other: Tensor, *trained: Tensor) -> bool:
    """Whether the two values are equal, and their gradients."""
    sides = [[value.detach(), *torch.autograd.grad(value, trained)] for value in (ours, other)]
    return all(torch.allclose(a, b, rtol=1e-5, atol=1e-5) for a, b in zip(*sides, strict=True))


LOGITS = two(6, 5)
LABELS = torch.tensor([0, 1, 2, 3, 4, 0])


@pytest.mark.parametrize("standardise", [False, True])
def test_hinton(standardise: bool) -> None:
    s, t = LOGITS
    loss = (theirs.LogitStdKDLoss if standardise else theirs.KDLoss)(temperature=4.0, alpha=0.1, **BOTH)
    ours = 0.1 * F.cross_entropy(s, LABELS) + 0.9 * hinton_kd_loss(s, t, standardise=standardise)
    assert same(ours, loss(io(s), io(t), LABELS), s)


@pytest.mark.parametrize(
    ("alpha", "labels"), [(None, LABELS), (0.0, LABELS), (0.1, None)], ids=["no alpha", "alpha 0", "no labels"]
)
def test_hinton_without_a_task_loss_loses_the_factor_in_torchdistill(
    alpha: float | None, labels: Tensor | None
) -> None:
    """T^2 belongs to the soft loss (Hinton 2015, section 2.1); torchdistill drops it without cross-entropy, so that
    the weight of the same loss changes 16-fold."""
    s, t = LOGITS
    other = theirs.KDLoss(temperature=4.0, alpha=alpha, beta=1.0, **BOTH)(io(s), io(t), labels)
    assert same(hinton_kd_loss(s, t, 4.0) / 16, other, s)


def test_dist() -> None:
    s, t = LOGITS
    assert same(dist_loss(s, t, 2.0, 3.0, 4.0), theirs.DISTLoss(beta=2.0, gamma=3.0, tau=4.0, **BOTH)(io(s), io(t)), s)


def test_the_channel_term_of_dist_plus_has_the_wrong_sign_in_torchdistill() -> None:
    """DIST+ adds relations of feature channels, which medkd does not have. torchdistill adds the correlation, not 1 -
    correlation: features equal to the teacher's are the worst, and it teaches the opposite ones. The term of the
    logits, which DIST+ shares with DIST, is right."""
    paths = {
        f"{side}_{of}_module_{what}": {"path": of, "io": "output"}[what]
        for side in ("student", "teacher") for of in ("logit", "feature") for what in ("path", "io")
    }  # fmt: skip
    (s, t), (f, _) = LOGITS, two(6, 3, 4, 4)

    def value(student: Tensor, teacher: Tensor, **weights: float) -> float:
        loss = theirs.DISTPlusLoss(**paths, **({"beta": 0.0, "gamma": 0.0, "iota": 0.0, "kappa": 0.0} | weights))
        both = ({"logit": {"output": x}, "feature": {"output": y}} for x, y in ((s, student), (t, teacher)))
        return loss(*both).item()

    assert value(f, f, iota=1.0) == pytest.approx(1.0, abs=1e-5)
    assert value(-f, f, iota=1.0) == pytest.approx(-1.0, abs=1e-5)
    assert value(f, f, kappa=1.0) == pytest.approx(0.0, abs=1e-5)
    assert value(f, f, beta=2.0) == pytest.approx(dist_loss(s, t, beta=2.0, gamma=0.0).item(), abs=1e-5)


def test_fitnets() -> None:
    """torchdistill has no FitNets of its own: it wraps a loss of PyTorch."""
    s, t = two(4, 3, 8, 8)
    mine: dict[str, Any] = {"is_from_teacher": False, "module_path": "m", "io": "output"}
    wrapped = theirs.SimpleLossWrapper(nn.MSELoss(), input=mine, target=mine | {"is_from_teacher": True})
    ours = FitNetLoss(3, 3)
    projected = ours.regressor(s)
    other = wrapped(io(projected), io(t), LABELS)
    assert same(ours(s, t), other, s, *ours.parameters())


@pytest.mark.parametrize("mode", ["code", "paper"])
def test_attention_transfer(mode: str) -> None:
    s, t = two(4, 3, 8, 8)
    t = torch.cat([t, s.detach().roll(1, 0)], 1)  # other channels
    layer = {"io": "output", "path": "m"}
    loss = theirs.ATLoss(at_pairs={"pair": {"teacher": layer, "student": layer, "weight": 1}}, mode=mode)
    assert same(attention_transfer_loss(s, t, mode=mode), loss(io(s), io(t)), s)


def test_similarity_preserving_divides_rows_by_another_norm_in_torchdistill() -> None:
    """Equation 3 of the paper divides each row by its Euclidean length. torchdistill divides it by the sum of its
    absolute values (0.180556 on the card's example, where 0.199233 is right)."""
    s, t = torch.tensor([[1.0, 0.0], [1.0, 1.0]]), torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    other = theirs.SPKDLoss("m", "m", "batchmean")
    assert other(io(s), io(t)).item() == pytest.approx(0.180556, abs=1e-6)
    assert similarity_preserving_loss(s, t).item() == pytest.approx(0.199233, abs=1e-6)
    s, t = two(4, 3, 8, 8)

    def row_sums_to_one(x: Tensor) -> Tensor:
        gram = x.flatten(1) @ x.flatten(1).T
        return gram / gram.abs().sum(1, keepdim=True)

    squared = (row_sums_to_one(s) - row_sums_to_one(t)).square().sum()
    assert same(squared / 16, other(io(s), io(t)), s)
    assert torch.allclose(similarities(s.detach()).norm(dim=1), torch.ones(4))


@pytest.mark.parametrize("weights", [(25.0, 50.0), (1.0, 0.0), (0.0, 1.0)])
def test_rkd(weights: tuple[float, float]) -> None:
    s, t = two(6, 5)
    t = torch.cat([t, s.detach().roll(1, 0)], 1)
    assert same(rkd_loss(s, t, *weights), theirs.RKDLoss("m", "m", *weights, "mean")(io(s), io(t)), s)


@pytest.mark.parametrize("side", [8, 4, 3, 2, 1])
def test_hierarchical_context(side: int) -> None:
    s, t = two(2, 3, side, side)
    loss = theirs.HierarchicalContextLoss(reduction="mean", output_sizes=[4, 2, 1], **BOTH)
    assert same(hierarchical_context_loss(s, t), loss(io((s, None)), io(t)), s)


def fusion_pair(deepest: bool) -> tuple[nn.Module, Fusion]:
    """Both with the same weights: 4 channels of the student, 3 in the middle, 5 of the teacher."""
    torch.manual_seed(0)
    other, ours = wrapper.AttentionBasedFusion(4, 3, 5, not deepest), Fusion(2, 4, 3, 5, deepest)
    ours.reduce.load_state_dict(other.conv1.state_dict())
    ours.expand.load_state_dict(other.conv2.state_dict())
    if ours.attention is not None:
        ours.attention.load_state_dict(other.attention_conv[0].state_dict())
    return other, ours


def test_reviewkd() -> None:
    """Two fused stages, the deepest first, and the hierarchical context of both; weights and inputs in gradient."""
    (deep, its), (stage, that) = two(2, 4, 4, 4), two(2, 4, 8, 8)
    its, that = (torch.cat([t, t[:, :1]], 1) for t in (its, that))
    loss = ReviewKDLoss([4, 4], [5, 5], middle=3)
    (first, loss.fusions[0]), (second, loss.fusions[1]) = fusion_pair(True), fusion_pair(False)
    theirs_deep, residual = first(deep)
    theirs_stage, _ = second(stage, residual, 8)
    context = theirs.HierarchicalContextLoss(reduction="mean", output_sizes=[4, 2, 1], **BOTH)
    other = sum(context(io((f, None)), io(t)) for f, t in ((theirs_deep, its), (theirs_stage, that)))
    assert same(loss([deep, stage], [its, that]), other, deep, stage)


def crd_pair() -> tuple[nn.Module, CRDLoss, Tensor, Tensor]:
    """Both losses with the same banks; features of student and teacher."""
    torch.manual_seed(0)
    other = theirs.CRDLoss("n", "e", "n", 3, 10, 4, 10, temperature=0.5)
    ours = CRDLoss(5, 6, torch.arange(10), dim=3, negatives=4, temperature=0.5)
    ours.student_bank.copy_(other.memory_v1)
    ours.teacher_bank.copy_(other.memory_v2)
    return other, ours, two(4, 5)[0], two(4, 6)[1]


def test_crd() -> None:
    """Loss, gradient of the embeddings of both sides, Z of the first batch, and banks after the update: two steps."""
    other, ours, s, t = crd_pair()
    embed = [wrapper.Normalizer4CRD(layer) for layer in (ours.student_embedding, ours.teacher_embedding)]
    index = torch.tensor([1, 3, 5, 7])
    for step in range(2):
        negatives = ours.negatives(index, torch.rand(4, 10, generator=generator(step)))
        supplied = {"pos_idx": index, "contrast_idx": torch.cat([index[:, None], negatives], 1)}
        loss = other({"n": {"output": embed[0](s)}, "e": {"input": supplied}}, {"n": {"output": embed[1](t)}})
        assert same(ours(s, t, index, negatives), loss, s, *ours.parameters())
        ours.update(s, t, index)
        assert torch.allclose(ours.log_z.exp(), other.params[2:4], rtol=1e-5)
        assert torch.allclose(ours.student_bank, other.memory_v1, atol=1e-6)
        assert torch.allclose(ours.teacher_bank, other.memory_v2, atol=1e-6)
        s, t = s.roll(1, 0), t.roll(1, 1)


def test_crd_draws_its_own_negatives_only_here() -> None:
    """torchdistill's alias sampler reads an attribute that does not exist."""
    other, ours, s, t = crd_pair()
    index = torch.tensor([1, 3, 5, 7])
    with pytest.raises(AttributeError, match="prob"):
        other({"n": {"output": s[:, :3]}, "e": {"input": {"pos_idx": index}}}, {"n": {"output": t[:, :3]}})
    assert ours.negatives(index, torch.rand(4, 10)).shape == (4, 4)
