from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from medkd.engine.taps import replaced


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.Linear(2, 1)))


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def test_outputs_are_read_and_replaced_inside_the_block_only() -> None:
    net, x = network(), torch.randn(3, 2)
    plain, seen = net(x), {}

    def edit(path: str, output: Tensor) -> Tensor:
        seen[path] = output
        return torch.zeros_like(output) if path == "1.0" else output

    with replaced(net, ["0", "1.0"], edit):
        inside = net(x)
    torch.testing.assert_close(seen["1.0"], net[0](x).relu())
    torch.testing.assert_close(inside, net[1][1].bias.expand(3, 1))
    assert hooks(net) == 0
    assert torch.equal(net(x), plain)


def test_inputs_are_read_and_replaced_too() -> None:
    """`1.0:input` is what the ReLU gets, negative numbers and all."""
    net, x = network(), torch.randn(3, 2)
    seen = {}

    def edit(path: str, given: Tensor) -> Tensor:
        seen[path] = given
        return torch.zeros_like(given)

    with replaced(net, ["1.0:input"], edit):
        inside = net(x)
    torch.testing.assert_close(seen["1.0:input"], net[0](x))
    torch.testing.assert_close(inside, net[1][1].bias.expand(3, 1))
    assert hooks(net) == 0
    with pytest.raises(ValueError, match=r"no module \['1\.7:input'\]"):
        replaced(net, ["1.7:input"], edit).__enter__()


def test_hooks_go_even_when_the_forward_fails() -> None:
    net = network()
    with pytest.raises(RuntimeError, match="shapes"), replaced(net, ["0", "1.1", "1.0:input"], lambda _, y: y):
        net(torch.zeros(3, 5))
    assert hooks(net) == 0


def test_an_unknown_path_is_named_and_nothing_is_hooked() -> None:
    net = network()
    with pytest.raises(ValueError, match=r"no module \['1\.7'\] in Sequential; it has \['0', '1', '1\.0', '1\.1'\]"):
        replaced(net, ["0", "1.7"], lambda _, y: y).__enter__()
    assert hooks(net) == 0
