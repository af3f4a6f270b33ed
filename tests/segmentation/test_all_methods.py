"""What holds for every method of this room (semi_supervised_baselines.md 6, item 16; engine contract 1, 8, 13, 15)."""

from __future__ import annotations

import copy

import pytest
import torch

from medkd.config.registry import methods
from medkd.engine.fit import PhaseRun
from medkd.engine.options import Optimizer
from medkd.engine.phases import Phase
from medkd.engine.runtime import Runtime
from medkd.engine.tracking import Tracker

SEGMENTATION = sorted(name for name, options in methods().items() if options.__module__ == "medkd.segmentation.options")
pytestmark = pytest.mark.parametrize("kind", SEGMENTATION)


class Stream:
    """One stream of the batches a step reads; remembers what was asked for."""

    def __init__(self, batches, name):
        self.batches, self.name, self.asked = batches, name, []

    def batch(self, global_step):
        batch = self.batches(step=global_step)[self.name]
        self.asked.append(global_step)
        return batch


@pytest.fixture
def run(unet, batches, task):
    """A phase of a method around networks 0, 1, ..., ready to train; and its streams."""

    def make(kind: str, precision: str = "fp32") -> tuple[PhaseRun, dict[str, Stream]]:
        streams = {name: Stream(batches, name) for name in ("labelled", "unlabelled")}
        phase = Phase("test", methods()[kind]().build, 3, streams, Optimizer(lr=0.05))
        runtime = Runtime(torch.device("cpu"), precision)
        return PhaseRun(phase, unet, task, runtime, 0, Tracker(), {}, {}, 0), streams

    return make


@pytest.mark.parametrize("dims", [2, 3])
def test_one_step_gives_a_finite_loss_and_gradients(kind, dims, unet, batches, context):
    """The unlabelled stream has no labels: a method that read them would raise."""
    method = methods()[kind]().build(lambda i: unet(i, dims=dims)).train()
    turn = method.turns[0]
    output = method.step(turn, batches(dims=dims), context(50))
    assert output.loss.shape == ()
    assert output.loss.dtype == torch.float32
    assert torch.isfinite(output.loss)
    assert all(isinstance(v, torch.Tensor) and not v.requires_grad and v.ndim == 0 for v in output.logs.values())
    output.loss.backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in method.trainable(turn))


def test_arms_share_initial_weights_and_read_one_labelled_batch_an_update(kind, run, unet):
    """The student before update 0 is that of every other arm with the seed, and update k reads labelled batch k."""
    arm, streams = run(kind)
    reference = unet(0).state_dict()
    mine = arm.method.student.state_dict()
    assert mine.keys() == reference.keys()
    assert all(torch.equal(mine[name], reference[name]) for name in reference)
    plain, plain_streams = run("supervised")
    for _ in range(2):
        arm.train_one()
        plain.train_one()
    assert streams["labelled"].asked == plain_streams["labelled"].asked == [0, 1]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_three_updates_change_every_trainable_tensor_and_repeat_exactly(kind, precision, run):
    results = []
    for _ in range(2):
        arm, _ = run(kind, precision)
        before = [p.detach().clone() for p in arm.method.trainable("student")]
        for _ in range(3):
            arm.train_one()
        assert arm.skipped == 0
        moved = [not torch.equal(a, b) for a, b in zip(before, arm.method.trainable("student"))]
        # a bias in front of a batch norm has no gradient but rounding
        names = [n for n, p in arm.method.named_parameters() if p.requires_grad]
        assert all(m for m, n in zip(moved, names, strict=True) if not n.endswith("conv.bias"))
        results.append(arm.method.state_dict())
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*(r.values() for r in results)))


def test_candidates_are_those_of_the_options_and_hooks_are_gone(kind, run):
    arm, _ = run(kind)
    arm.train_one()
    candidates = arm.method.candidates()
    assert "student" in candidates
    assert set(candidates) - {"mean"} <= set(methods()[kind].candidates)  # a mean of two is scored, not shipped
    with torch.no_grad():
        for network in candidates.values():
            assert network.eval()(torch.zeros(1, 1, 16, 16)).shape == (1, 3, 16, 16)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in arm.method.modules())


def test_state_dict_restores_the_method(kind, run):
    """A fresh method that loads the state goes on as the first one."""
    one, _ = run(kind)
    for _ in range(2):
        one.train_one()
    other, _ = run(kind)
    other.restore(copy.deepcopy(one.state()))
    one.train_one()
    other.train_one()
    mine, theirs = one.method.state_dict(), other.method.state_dict()
    assert all(torch.equal(torch.as_tensor(mine[k]), torch.as_tensor(theirs[k])) for k in mine)
