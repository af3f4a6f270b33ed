"""A detector trained with detectron2, as a model folder: evaluate it, predict with it, start an adaptation from it.

    python data_prep/detectron2_model.py config.yaml model_final.pth --classes mass,calcification --out MODEL
    medkd evaluate MODEL --data DATASET
    medkd train RECIPE init=MODEL detector='{kind: detectron2, config: config.yaml}' preprocess.size='[800, 800]'

Needs detectron2 (docs/detection.md). config.yaml is the one of the training; of it only what makes the network is kept.
The checkpoint is a torch pickle and is opened with weights_only, so that nothing in it can run; a .pkl of the model zoo
is not opened. Heads of masks and keypoints are left out. The classes are named in the order of their ids.
"""

from __future__ import annotations

import argparse
import pickle
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from medkd.data.image_options import ImagePreprocess
from medkd.detection.detectors.options import Detectron2Options
from medkd.detection.model import DetectionModel
from medkd.engine.checkpoint import load_module
from medkd.errors import InputError
from medkd.inference.model_folder import write_model

OTHER_HEADS = ("roi_heads.mask_", "roi_heads.keypoint_")
NOT_WEIGHTS = ("pixel_mean", "pixel_std", "proposal_generator.anchor_generator.")  # old checkpoints hold them
BOXES_ALONE = {"MODEL": {"MASK_ON": False, "KEYPOINT_ON": False}}
CARD = """# Detection model

Classes: {classes}. Channels: {channels}.

detectron2 Faster R-CNN, 2-D, images of {size}. Converted from {weights}, trained elsewhere.

Not a medical device. Validate on your own images before any use.
"""


def read_checkpoint(path: Path, prefix: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint whose names begin with `prefix`, without it. Raises InputError: not a checkpoint of
    tensors; student and teacher in one, and no prefix that says which of them is meant."""
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"{path} cannot be opened as tensors alone ({reason}). If it is yours, write its model anew where it was "
            "made: torch.save({'model': model.state_dict()}, FILE)"
        ) from None
    state = content.get("model", content) if isinstance(content, dict) else None
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise InputError(f"{path} holds no state dict, alone or under the key 'model'")
    first = sorted({name.split(".")[0] for name in state})
    found = {name.removeprefix(prefix): v for name, v in state.items() if name.startswith(prefix)}
    if not any(name.startswith("backbone.") for name in found):
        hint = f"; say which: --prefix {first[0]}." if not prefix else ""
        raise InputError(f"{path} has no {prefix}backbone.*; its names begin with {', '.join(first)}{hint}")
    return {name: value for name, value in found.items() if not name.startswith((*OTHER_HEADS, *NOT_WEIGHTS))}


def convert(config: Path, weights: Path, description: dict[str, Any], out: Path, prefix: str = "") -> DetectionModel:
    """Write the model folder `out`. Raises InputError: config and weights do not fit each other, or `out` is there."""
    if out.exists():
        raise InputError(f"{out} is there already; give another --out")
    try:
        detector = Detectron2Options(config=str(config), settings=BOXES_ALONE)
    except ValueError as error:  # pydantic's
        raise InputError(str(error)) from None
    model = DetectionModel(detector=detector, trained={"by": "detectron2", "weights": weights.name}, **description)
    network = model.build()
    load_module(network, read_checkpoint(weights, prefix), str(weights))
    card = CARD.format(
        classes=", ".join(model.classes), channels=", ".join(model.channels), size=model.preprocess.size,
        weights=weights.name,
    )  # fmt: skip
    write_model(out, model, network.state_dict(), card)
    return model


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", type=Path)
    parser.add_argument("weights", type=Path)
    parser.add_argument("--classes", required=True, help="names, separated by commas, in the order of their ids")
    parser.add_argument("--channels", default="red,green,blue", help="of the images; one alone is repeated")
    parser.add_argument("--size", type=int, nargs=2, default=(800, 800), metavar=("H", "W"), help="what it will see")
    parser.add_argument("--intensity", choices=("full", "percentile"), default="full")
    parser.add_argument("--prefix", default="", help="of the names in the checkpoint, such as modelTeacher.")
    parser.add_argument("--out", type=Path, required=True)
    a = parser.parse_args()
    preprocess = ImagePreprocess(size=tuple(a.size), intensity=a.intensity)
    names = {"classes": tuple(a.classes.split(",")), "channels": tuple(a.channels.split(","))}
    try:
        model = convert(a.config, a.weights, {**names, "preprocess": preprocess}, a.out, a.prefix)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(f"{a.out}: {len(model.classes)} classes, {len(model.channels)} channels, images of {model.preprocess.size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
