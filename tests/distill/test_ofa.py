"""OFA-KD: its exits and its method, by the invariants of the card (ofa_kd.md, 5 to 7)."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medkd.distill.losses.ofa import ofa_loss
from medkd.distill.methods.forward import tapped
from medkd.distill.methods.ofa import OneForAll
from medkd.distill.methods.ofa_exits import OfaExits, PatchMerging, TokenExit, dry_shapes
from medkd.distill.ofa_options import OfaOptions
from medkd.engine.method import Batch, StepContext
from medkd.engine.randomness import Draws, generator, seeded
from medkd.errors import InputError
from medkd.networks.options import BasicUNetOptions

K = 3
IMAGES = torch.randn(4, 1, 16, 16, generator=generator("ofa"))
LABELS = torch.arange(4) % K


class Task:
    primary = "score"

    def supervised_loss(self, output: Tensor, label: Tensor) -> Tensor:
        return nn.functional.cross_entropy(output, label)

    def evaluate(self, network: nn.Module, limit: int | None = None) -> dict[str, float]:
        return {"score": 0.0}


def network(which: object) -> nn.Sequential:
    """Three stages of maps, then a classifier."""
    with seeded("network", which):
        stages = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in ((1, 4), (4, 8))]
        return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, K))


def method(**values: object) -> OneForAll:
    given = {"classes": K, "taps": ("0", "1"), "width": 16} | values
    with seeded("method"):
        return OneForAll(network(0), network("teacher"), OfaOptions(**given))


def step(made: OneForAll, images: Tensor = IMAGES, labels: Tensor = LABELS) -> Tensor:
    batch = Batch(images, labels, tuple("abcd"), Draws((0,), 4))
    return made.step("student", {"labelled": batch}, StepContext(0, 1, 0, 0, Task())).loss


def test_every_stage_has_an_exit_with_a_gradient_and_the_teacher_none() -> None:
    made = method().train()
    assert len(made.exits.exits) == 2
    step(made).backward()
    assert [n for n, p in made.exits.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert all(p.grad is None for p in made.teacher.parameters())
    owned = {id(p) for p in made.trainable("student")}
    assert {id(p) for p in made.exits.parameters()} <= owned
    assert not any(id(p) in owned for p in made.teacher.parameters())


def test_what_ships_is_the_plain_student() -> None:
    """No key of an exit, no hook left, the same output."""
    made, plain = method(), network(0)
    step(made)
    (shipped,) = made.candidates().values()
    assert shipped.state_dict().keys() == plain.state_dict().keys()
    assert not any(m._forward_hooks for m in shipped.modules())
    plain.load_state_dict(shipped.state_dict())
    assert torch.equal(shipped.eval()(IMAGES), plain.eval()(IMAGES))
    assert any(key.startswith("exits.") for key in made.state_dict())  # a resumed run has them


def test_the_loss_is_task_final_and_exits() -> None:
    """Weights 0 leave the task's loss; a teacher term each otherwise."""

    def loss(kd: float, exits: float) -> float:
        return step(method(kd_weight=kd, exit_weight=exits).eval()).item()

    task = Task().supervised_loss(method().eval().student(IMAGES), LABELS).item()
    assert loss(0, 0) == pytest.approx(task, abs=1e-6)
    both = loss(1, 1)
    assert both - task == pytest.approx((loss(1, 0) - task) + (loss(0, 1) - task), abs=1e-5)
    assert loss(1, 0) > task


def test_each_exit_may_have_its_gamma() -> None:
    """n + 1 gammas for n stages, the last one for the final logits."""
    made = method(gamma=(1.0, 1.5, 2.0)).eval()
    with tapped(made.student, ("0", "1")) as features:
        logits = made.student(IMAGES)
    teacher, task = made.teacher(IMAGES), Task().supervised_loss(logits, LABELS)
    terms = [
        ofa_loss(z, teacher, LABELS, gamma) for z, gamma in zip([*made.exits(features), logits], made.options.gamma)
    ]
    assert step(made).item() == pytest.approx((task + sum(terms)).item(), rel=1e-6)
    with pytest.raises(InputError, match="2 gammas for 2 exits; needed: one each and one for the last, or 1"):
        method(gamma=(1.0, 1.5))


def test_the_dry_forward_leaves_no_trace() -> None:
    plain = network(0).train()
    before = {k: v.clone() for k, v in plain.state_dict().items()}
    shapes, logits = dry_shapes(plain, ("0", "1"), IMAGES)
    assert tuple(logits) == (4, K)
    assert {k: tuple(v) for k, v in shapes.items()} == {"0": (4, 4, 8, 8), "1": (4, 8, 4, 4)}
    assert all(torch.equal(v, before[k]) for k, v in plain.state_dict().items())
    assert all(module.training for module in plain.modules())
    assert not any(m._forward_hooks for m in plain.modules())


@pytest.mark.parametrize("space", [(16, 16), (8, 8, 8), (5, 3)])
def test_exits_of_maps(space: tuple[int, ...]) -> None:
    shapes = {"a": (2, 4, *space), "b": (2, 8, *space), "c": (2, 6, *space)}
    exits = OfaExits(shapes, K, width=12)
    strided = [sum(m.stride[0] == 2 for m in e.modules() if hasattr(m, "stride")) for e in exits.exits]
    assert strided == [2, 1, 0]  # a block fewer for each deeper stage
    assert [e[-1].in_features for e in exits.exits] == [12, 12, 12]
    assert [tuple(z.shape) for z in exits({k: torch.randn(s) for k, s in shapes.items()})] == [(2, K)] * 3


@pytest.mark.parametrize(
    ("tokens", "class_token", "merges"),
    [(16, False, 0), (17, True, 0), (196, False, 1), (785, True, 2), (24, False, 0)],
)
def test_exits_of_tokens(tokens: int, class_token: bool, merges: int) -> None:
    """14 x 14 becomes 7 x 7, 28 x 28 too; 24 tokens form no square."""
    branch = TokenExit(tokens, 8, K, 16, blocks=2).eval()
    assert (branch.class_token, len(branch.merges), len(branch.blocks)) == (class_token, merges, 2)
    x = torch.randn(2, tokens, 8, generator=generator(tokens))
    assert branch(x).shape == (2, K)
    moved = x.clone()
    moved[:, 0] += 1.0  # the class token, or a token of the mean, is seen
    assert not torch.allclose(branch(moved), branch(x))
    assert len(TokenExit(tokens, 8, K, 16, blocks=0).blocks) == 1


def test_patch_merging_joins_neighbours() -> None:
    """Token (row, column) of a 4 x 4 grid holds 10 row + column; the first merged token is the upper left square."""
    merging = PatchMerging(1, 4)
    merging.layers = nn.Identity()
    grid = torch.tensor([[10.0 * r + c for r in range(4) for c in range(4)]])[..., None]
    assert sorted(merging(grid)[0, 0].tolist()) == [0, 1, 10, 11]
    assert sorted(merging(grid)[0, 3].tolist()) == [22, 23, 32, 33]


def test_dense_exits_reach_the_grid_of_the_logits() -> None:
    unet = BasicUNetOptions(features=(4, 4, 8, 8, 8), dropout=(0.0,)).build(2, 1, K, (32, 32))
    made = OneForAll(unet, unet, OfaOptions(classes=K))
    assert made.exits.paths == ("conv_0", "down_1", "down_2", "down_3", "down_4")
    images = torch.randn(4, 1, 32, 32)
    with tapped(unet, made.exits.paths) as features:
        size = unet(images).shape[2:]
    assert [tuple(z.shape) for z in made.exits(features, size)] == [(4, K, 32, 32)] * 5
    labels = torch.randint(K, (4, 32, 32), generator=generator("labels"))
    assert step(made, images, labels).isfinite()


def test_initial_values() -> None:
    exits = OfaExits({"t": (2, 16, 8)}, K, width=64)
    linear = exits.exits[0].blocks[0].linear1
    assert linear.weight.std().item() == pytest.approx(0.02, rel=0.1)
    assert not linear.bias.any()
    maps = OfaExits({"m": (2, 64, 8, 8), "n": (2, 64, 8, 8)}, K, width=256)
    deepest = maps.exits[1][0]  # 64 to 256 channels: Kaiming by what leaves it
    assert deepest.weight.std().item() == pytest.approx((2 / 256) ** 0.5, rel=0.1)
    assert not deepest.bias.any()
    norms = [m for m in maps.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert all((m.weight == 1).all() and not m.bias.any() for m in norms)


def test_bad_input_is_named() -> None:
    with pytest.raises(InputError, match="at least one stage"):
        OfaExits({}, K)
    with pytest.raises(InputError, match=r"a gives a tensor of shape \(2, 3\)"):
        OfaExits({"a": (2, 3)}, K)
    with pytest.raises(InputError, match="width is 10; for tokens"):
        OfaExits({"a": (2, 16, 8)}, K, width=10)
    with pytest.raises(InputError, match=r"ofa\.classes is 4, but the teacher tells 3"):
        step(method(classes=4))
    with pytest.raises(InputError, match=r"encoder levels of Sequential are not known; name modules in ofa\.taps"):
        method(taps=())
    with pytest.raises(ValueError, match=r"no module \['9'\]"):
        method(taps=("9",))
