"""The operations over ranks, one by one: in one process they change nothing, in three they are what they say."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from processes import finished, ranks
from torch import nn

from medkd.engine.options import RuntimeOptions
from medkd.engine.runtime import BUCKET, ONE_PROCESS, Runtime, _buckets, open_runtime
from medkd.errors import InputError

WORLD = 3


def test_in_one_process_nothing_changes() -> None:
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    before = [p.grad.clone() for p in layer.parameters()]
    values = torch.tensor([1.0, 2.0], requires_grad=True)
    assert ONE_PROCESS.global_sum(values) is values
    assert ONE_PROCESS.global_mean(values) is values
    assert ONE_PROCESS.sum_gradients(list(layer.parameters()), values) is values
    assert all(torch.equal(a, p.grad) for a, p in zip(before, layer.parameters()))
    assert ONE_PROCESS.share([3, 1, 2]) == [3, 1, 2]
    assert ONE_PROCESS.gather(values, 2) is values
    assert ONE_PROCESS.from_first(b"x") == b"x"
    ONE_PROCESS.wait()


def test_buckets_keep_every_tensor_once_and_types_apart() -> None:
    tensors = [torch.zeros(n, dtype=d) for n in (3, BUCKET, 5, 7) for d in (torch.float32, torch.float64)]
    made = _buckets(tensors)
    assert sorted(id(t) for b in made for t in b) == sorted(map(id, tensors))
    assert all(len({t.dtype for t in b}) == 1 for b in made)
    assert all(len(b) == 1 or sum(t.numel() for t in b) <= BUCKET for b in made)


def test_torchrun_is_asked_only_where_ranks_are_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    """`medkd predict` in a process that torchrun started does not wait for others."""
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert open_runtime(RuntimeOptions(device="cpu")).world == 1


def test_a_device_number_under_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match=r"under torchrun, where every process has a device of its own"):
        open_runtime(RuntimeOptions(device="cuda:1"), ranks=True)


@pytest.mark.parametrize("total", range(1, 8))
def test_shares_cover_the_items(total: int) -> None:
    shares = [Runtime(torch.device("cpu"), rank=r, world=WORLD).share(range(total)) for r in range(WORLD)]
    assert sorted(i for share in shares for i in share) == list(range(total))


SCRIPT = """
import torch
from torch import nn
from medkd.engine.options import RuntimeOptions
from medkd.engine.runtime import open_runtime

r = open_runtime(RuntimeOptions(device="cpu"), ranks=True)
assert open_runtime(RuntimeOptions(device="cpu"), ranks=True) == r  # again in one process: the same group
assert r.world == 3 and r.leads == (r.rank == 0)

# global_sum: the value, and the gradient of the mean of the ranks' losses
x = torch.tensor([1.0 + r.rank, 2.0], dtype=torch.float64, requires_grad=True)
total = r.global_sum(x)
assert total.tolist() == [6.0, 6.0]
(total[0] ** 2 / 3).backward()  # each rank's share of the mean; d/dx of (x1 + x2 + x3)^2 is 2 * 6, summed over ranks 12
assert torch.allclose(x.grad, torch.tensor([12.0, 0.0], dtype=torch.float64)), x.grad
assert r.global_mean(torch.tensor(float(r.rank))) == 1.0

# gradients: of both types, one that only a single rank has, one that nobody has
ps = [nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(3, dtype=torch.float64)), nn.Parameter(torch.zeros(1)),
      nn.Parameter(torch.zeros(1))]
ps[0].grad = torch.full((2,), 1.0 + r.rank)
ps[1].grad = torch.full((3,), 10.0, dtype=torch.float64)
if r.rank == 1:
    ps[2].grad = torch.full((1,), 5.0)
values = r.sum_gradients(ps, torch.tensor([1.0, float(r.rank == 2)]))
assert values.tolist() == [3.0, 1.0]
assert ps[0].grad.tolist() == [6.0, 6.0] and ps[1].grad.tolist() == [30.0] * 3
assert ps[2].grad.tolist() == [5.0] and ps[3].grad is None

# a non-finite gradient of one rank is everybody's
ps[0].grad.fill_(float("inf") if r.rank == 1 else 1.0)
r.sum_gradients(ps, torch.zeros(2))
assert not torch.isfinite(ps[0].grad).any()

# buffers: floating ones are averaged, integers stay
norm = nn.BatchNorm1d(2)
norm.running_mean.fill_(float(r.rank))
norm.num_batches_tracked.fill_(7)
r.average_buffers(norm)
assert norm.running_mean.tolist() == [1.0, 1.0] and int(norm.num_batches_tracked) == 7

# but for those that a module keeps alike by itself
norm.running_mean.fill_(float(r.rank))
norm.running_var.fill_(float(r.rank))
norm.replicated = ("running_mean",)
r.average_buffers(nn.Sequential(norm))
assert norm.running_mean.tolist() == [float(r.rank)] * 2 and norm.running_var.tolist() == [1.0, 1.0]

# the first rank's weights
torch.manual_seed(r.rank)
layer = nn.Linear(2, 2)
r.same_everywhere(layer)
torch.manual_seed(0)
assert torch.equal(layer.weight, nn.Linear(2, 2).weight)

# bytes of the first rank
assert r.from_first(b"abc" if r.leads else None) == b"abc"
assert r.from_first(b"" if r.leads else b"mine") == b""
assert r.from_first(None) is None

# rows in the order of their items, also where a rank has none
for n in (1, 2, 3, 5, 7):
    mine = torch.tensor([[i / 3, -i] for i in r.share(range(n))], dtype=torch.float64).reshape(-1, 2)
    assert torch.equal(r.gather(mine, n), torch.tensor([[i / 3, -i] for i in range(n)], dtype=torch.float64))

# rows one rank after the other, whatever their number
mine = torch.full((2 * r.rank, 3), float(r.rank), dtype=torch.float16)
assert r.joined(mine)[:, 0].tolist() == [1.0] * 2 + [2.0] * 4

# the first of the machine before the others
import os, sys, time
path = sys.argv[1]
with r.one_before_the_others():
    if r.local_rank == 0:
        time.sleep(0.5)
        open(path, "w").close()
    assert os.path.exists(path)
r.wait()
print("fine")
"""


@pytest.mark.slow
def test_in_three_processes_they_are_what_they_say(tmp_path: Path) -> None:
    with ranks([sys.executable, "-c", SCRIPT, str(tmp_path / "made")], WORLD) as started:
        texts = finished(started, within=200)
    assert [text.splitlines()[-1] for text in texts] == ["fine"] * WORLD, "\n".join(texts)
