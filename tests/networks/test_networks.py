"""Every network a recipe can name builds in 2-D and 3-D and answers with (B, classes, *S)."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import nn

from medkd.networks.build import encoder_levels
from medkd.networks.options import BasicUNetOptions, NetworkOptions, SwinUNETROptions

SMALL = {
    "BasicUNet": {"features": (4, 4, 8, 8, 8)},
    "UNet": {"features": (4, 8), "residual_units": 1},
    "DynUNet": {"features": (4, 8, 8)},
    "VNet": {},
    "SegResNet": {},
    "SwinUNETR": {"features": 12},
}


def small(kind: str, dims: int, **more: object) -> nn.Module:
    options = TypeAdapter(NetworkOptions).validate_python({"kind": kind, **SMALL[kind], **more})
    return options.build(dims, 2, 3, (16,) * dims)


def test_every_registered_network_is_tested():
    union, _ = get_args(NetworkOptions)
    assert {options.model_fields["kind"].default for options in get_args(union)} == set(SMALL)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", sorted(SMALL.keys() - {"SwinUNETR"}))
def test_output_shape(kind, dims):
    network = small(kind, dims).eval()
    shape = (32, 16) if dims == 2 else (16, 16, 16)
    with torch.no_grad():
        assert network(torch.zeros(2, 2, *shape)).shape == (2, 3, *shape)


def test_swin_unetr_output_shape():
    network = SwinUNETROptions(features=12).build(2, 1, 3, (64, 64)).eval()
    with torch.no_grad():
        assert network(torch.zeros(1, 1, 64, 64)).shape == (1, 3, 64, 64)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("norm", ["batch", "instance"])
@pytest.mark.parametrize("upsample", ["deconv", "bilinear"])
def test_basic_unet_trains_with_every_norm_and_upsampling(norm, upsample, dims):
    network = small("BasicUNet", dims, norm=norm, upsample=upsample)
    network(torch.randn(2, 2, *[32] * dims)).square().mean().backward()
    assert all(p.grad is not None for p in network.parameters())
    norms = [m for m in network.modules() if isinstance(m, (nn.modules.batchnorm._NormBase))]
    assert {type(m).__name__ for m in norms} == {f"{norm.title()}Norm{dims}d"}
    assert all(m.affine for m in norms)


def test_published_unet_has_the_published_size():
    """1,813,764 parameters in the published code for one channel and four classes, whose decoder ends 3 x 3."""
    network = BasicUNetOptions().build(2, 1, 4, (256, 256))
    count = sum(p.numel() for p in network.parameters())
    assert count == pytest.approx(1_813_764, rel=0.01)


@pytest.mark.parametrize("dims", [2, 3])
def test_encoder_levels_of_basic_unet(dims):
    """Five levels, each half as large as the one before, with the features of the options."""
    network = small("BasicUNet", dims).eval()
    levels = encoder_levels(network)
    shapes = []
    for level in levels:
        network.get_submodule(level).register_forward_hook(lambda _m, _i, output: shapes.append(tuple(output.shape)))
    with torch.no_grad():
        network(torch.zeros(1, 2, *[16] * dims))
    assert shapes == [(1, f, *[16 // 2**i] * dims) for i, f in enumerate((4, 4, 8, 8, 8))]


def test_other_networks_have_no_known_levels():
    assert encoder_levels(small("SegResNet", 2)) == []


@pytest.mark.parametrize("rates", [(0.05, 0.1, 0.2, 0.3, 0.5), (0.4,), (0.0,)])
@pytest.mark.parametrize("dims", [2, 3])
def test_dropout_of_each_level(rates, dims):
    network = small("BasicUNet", dims, dropout=rates)
    drops = {path: m.p for path, m in network.named_modules() if isinstance(m, nn.modules.dropout._DropoutNd)}
    for level, rate in zip(encoder_levels(network), rates * 5 if len(rates) == 1 else rates):
        mine = [drops.pop(path) for path in list(drops) if path.startswith(level + ".")]
        assert mine == [rate, rate]  # two convolutions a level
    assert set(drops.values()) == {0.0}  # the decoder


def test_dropout_of_the_wrong_length_is_refused():
    with pytest.raises(ValidationError, match="dropout has 3 entries; allowed: 1 or 5"):
        BasicUNetOptions(dropout=(0.1, 0.2, 0.3))


def test_deep_supervision_of_dynunet():
    network = small("DynUNet", 2, deep_supervision=1)
    image = torch.zeros(2, 2, 16, 16)
    assert network(image).shape == (2, 2, 3, 16, 16)
    assert network.eval()(image).shape == (2, 3, 16, 16)
