"""bfloat16 gradients on a CPU where a feature map is smaller than the kernel, which hold unwritten memory in torch."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from medkd.engine.shallow_convolutions import ShallowConv3d, guard_shallow_convolutions

SHAPES = [(3, (2, 3, 2)), (3, (2, 8, 8)), (5, (3, 6, 6)), (5, (8, 1, 6)), (3, (4, 6, 4))]


def gradients(network: nn.Module, x: Tensor, precision: torch.dtype) -> list[Tensor]:
    network.zero_grad()
    with torch.autocast("cpu", dtype=precision, enabled=precision == torch.bfloat16):
        y = network(x)
    (y.float() * torch.linspace(-1, 1, y.numel()).view_as(y)).sum().backward()
    return [p.grad.clone() for p in network.parameters() if p.grad is not None]


def dirty_memory() -> None:
    """Give back memory full of large numbers, which a kernel that does not write its result will show."""
    for size in (1_000, 10_000, 50_000, 200_000):
        torch.full((size,), 1e30)


@pytest.mark.parametrize(("kernel", "shape"), SHAPES)
def test_guarded_gradients_are_those_of_float32(kernel: int, shape: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(*[nn.Conv3d(16, 16, kernel, padding=kernel // 2) for _ in range(2)])
    exact = copy.deepcopy(network)
    guard_shallow_convolutions(network)
    x = torch.randn(4, 16, *shape)
    for _ in range(3):
        dirty_memory()
        for mine, theirs in zip(gradients(network, x, torch.bfloat16), gradients(exact, x, torch.float32)):
            torch.testing.assert_close(mine, theirs, rtol=0, atol=0.03 * float(theirs.abs().max()))


def test_deep_maps_stay_in_bfloat16_and_shallow_ones_give_bfloat16() -> None:
    conv = nn.Conv3d(4, 4, 3, padding=1)
    guard_shallow_convolutions(conv)
    for depth in (2, 8):
        x = torch.randn(1, 4, depth, 8, 8)
        assert conv(x).dtype == torch.float32
        with torch.autocast("cpu", dtype=torch.bfloat16):
            assert conv(x).dtype == torch.bfloat16


def test_guard_keeps_weights_names_and_copies() -> None:
    network = nn.Sequential(nn.Conv3d(2, 3, 3), nn.ConvTranspose3d(3, 2, 2), nn.Conv2d(2, 2, 3))
    before = {k: v.clone() for k, v in network.state_dict().items()}
    guard_shallow_convolutions(network)
    guard_shallow_convolutions(network)
    assert [type(m) for m in copy.deepcopy(network)] == [ShallowConv3d, nn.ConvTranspose3d, nn.Conv2d]
    assert network.state_dict().keys() == before.keys()
    assert all(torch.equal(v, before[k]) for k, v in network.state_dict().items())
