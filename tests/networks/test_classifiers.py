"""Classifiers by name: shapes in 2-D and 3-D, channels, no download, images that are too small."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter

from medkd.errors import InputError
from medkd.networks.classifier_options import TORCHVISION, ClassifierOptions
from medkd.networks.classifiers import classifier_takes

SMALL: list[dict[str, Any]] = [
    {"kind": "TinyCNN", "features": [4, 8]},
    {"kind": "TinyCNN", "features": [4], "norm": "instance"},
    {"kind": "DenseNet", "features": 8, "growth": 4},
    {"kind": "ResNet", "depth": 10, "widen": 0.125},
]


def made(tree: dict[str, Any], dims: int, channels: int, classes: int) -> torch.nn.Module:
    options: Any = TypeAdapter(ClassifierOptions).validate_python(tree)
    network: torch.nn.Module = options.build(dims, channels, classes)
    return network


@pytest.fixture(autouse=True)
def _no_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("weights were asked for")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("tree", SMALL, ids=lambda t: t["kind"])
def test_monai_and_tiny(tree: dict[str, Any], dims: int) -> None:
    network = made(tree, dims, 2, 5).eval()
    assert network(torch.rand(2, 2, *[32] * dims)).shape == (2, 5)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", get_args(TORCHVISION))
def test_torchvision(name: str, channels: int) -> None:
    if channels == 1 and name not in ("resnet18", "mobilenet_v3_small"):
        pytest.skip("two are enough to see that the first convolution is replaced")
    network = made({"kind": "torchvision", "name": name}, 2, channels, 4).eval()
    assert network(torch.rand(1, channels, 32, 32)).shape == (1, 4)
    with pytest.raises(InputError, match="takes pictures"):
        made({"kind": "torchvision", "name": name}, 3, channels, 4)


def test_images_that_are_too_small_are_refused_before_the_first_step() -> None:
    network = made({"kind": "DenseNet", "features": 8, "growth": 4}, 2, 1, 2)
    with pytest.raises(InputError, match="8 x 8 are too small"):
        classifier_takes(network, 1, (8, 8))
    assert network.training
    classifier_takes(network, 1, (32, 32))


def test_the_tiny_network_halves_odd_sizes_and_uses_every_pixel() -> None:
    network = made({"kind": "TinyCNN", "features": [4, 8, 8]}, 2, 1, 3).eval()
    image = torch.rand(1, 1, 9, 9, requires_grad=True)
    network(image).sum().backward()
    assert image.grad is not None
    assert (image.grad != 0).float().mean() > 0.9
