"""CPS (card semi_supervised_baselines.md 6, items 6 and 17)."""

from __future__ import annotations

import pytest
import torch

from medkd.segmentation.cps import CrossPseudoSupervision, MeanOfNetworks, cross_pseudo_loss
from medkd.segmentation.options import CpsOptions

Z1, Z2 = torch.tensor([2.0, 0.0]).reshape(1, 2, 1, 1), torch.tensor([0.0, 1.0]).reshape(1, 2, 1, 1)


def test_hand_values():
    assert cross_pseudo_loss(Z1, Z2).item() == pytest.approx(2.126928, abs=1e-6)
    assert cross_pseudo_loss(Z2, Z1).item() == pytest.approx(1.313262, abs=1e-6)


def test_no_gradient_through_the_pseudo_labels():
    z1, z2 = Z1.clone().requires_grad_(), Z2.clone().requires_grad_()
    cross_pseudo_loss(z1, z2).backward()
    assert z1.grad.abs().sum() > 0
    assert z2.grad is None


def test_gradients():
    z = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    other = torch.randn(2, 3, 4, 4)
    assert torch.autograd.gradcheck(lambda z: cross_pseudo_loss(z, other), z)


def step(method, batches, context):
    method.eval()  # no batch statistics: only the weights differ
    return method.step("student", batches(), context(50))


def test_swapping_the_networks_changes_nothing_and_equal_ones_teach_alike(unet, batches, context):
    options = CpsOptions(weight=1.0)
    one = step(CrossPseudoSupervision(unet(0), unet(1), options), batches, context)
    other = step(CrossPseudoSupervision(unet(1), unet(0), options), batches, context)
    assert one.loss.item() == pytest.approx(other.loss.item(), rel=1e-6)
    twins = step(CrossPseudoSupervision(unet(0), unet(0), options), batches, context)
    assert twins.logs["agreement"] == 1
    network, batch = unet(0).eval(), batches()
    x, u = batch["labelled"], batch["unlabelled"]
    z = network(u.image)
    expected = 2 * context().task.supervised_loss(network(x.image), x.labels)
    assert twins.logs["loss_labelled"].item() == pytest.approx(expected.item(), rel=1e-5)
    assert twins.logs["loss_cross"].item() == pytest.approx(2 * cross_pseudo_loss(z, z).item(), rel=1e-5)


def test_build_gives_two_different_initialisations(unet):
    method = CpsOptions().build(unet)
    mine, theirs = (list(n.parameters()) for n in (method.student, method.second))
    assert any(not torch.equal(a, b) for a, b in zip(mine, theirs))
    assert {id(p) for p in method.trainable("student")} == {id(p) for p in mine + theirs}


def test_one_optimiser_over_both_networks_equals_two(unet, batches, context):
    def train(split: bool) -> list[torch.Tensor]:
        method = CpsOptions(weight=1.0, ramp=0).build(unet).train()
        groups = [method.student.parameters(), method.second.parameters()] if split else [method.trainable("student")]
        optimizers = [torch.optim.SGD(list(p), 0.05, momentum=0.9, weight_decay=1e-4) for p in groups]
        for i in range(2):
            for optimizer in optimizers:
                optimizer.zero_grad()
            method.step("student", batches(step=i), context(i)).loss.backward()
            for optimizer in optimizers:
                optimizer.step()
        return list(method.parameters())

    assert all(torch.equal(a, b) for a, b in zip(train(split=True), train(split=False)))


def test_mean_candidate(unet):
    """argmax and softmax of its output are those of the mean probability."""
    method = CpsOptions().build(unet).eval()
    mean = method.candidates()["mean"]
    image = torch.randn(2, 1, 16, 16)
    expected = (method.student(image).softmax(1) + method.second(image).softmax(1)) / 2
    torch.testing.assert_close(mean(image).softmax(1), expected)
    torch.testing.assert_close(mean(image).exp(), expected)
    assert isinstance(mean, MeanOfNetworks)
    assert mean.training is False
    assert method.train().candidates()["mean"].training is True
    assert not any(name.startswith("mean") for name in method.state_dict())  # it is a view, not a third network


def test_oracle_peer_gives_the_supervised_cross_entropy(unet, batches, context, stored):
    truth = torch.randint(3, (4, 16, 16), generator=torch.Generator().manual_seed(0))
    oracle = 20 * torch.nn.functional.one_hot(truth, 3).movedim(-1, 1).float()
    method = CrossPseudoSupervision(
        unet(), stored(lambda image: oracle.repeat(2, 1, 1, 1)), CpsOptions(weight=1, ramp=0)
    )
    method.eval()
    batch = batches()
    loss = method.step("student", batch, context()).loss
    method.student.zero_grad()
    loss.backward()
    mine = [p.grad.clone() for p in method.student.parameters()]
    method.student.zero_grad()
    x, u = batch["labelled"], batch["unlabelled"]
    supervised = context().task.supervised_loss(method.student(x.image), x.labels)
    (supervised + torch.nn.functional.cross_entropy(method.student(u.image), truth)).backward()
    for gradient, p in zip(mine, method.student.parameters()):
        torch.testing.assert_close(gradient, p.grad, rtol=1e-4, atol=1e-6)
