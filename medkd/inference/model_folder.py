"""The model folder: all that a prediction needs, and nothing that can run code.

model.safetensors   weights
model.yaml          network, preprocessing, channels, classes, how it was trained
model_card.md       the same for people
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medkd.data.options import Preprocess
from medkd.engine.checkpoint import load_module
from medkd.engine.options import Options
from medkd.errors import InputError
from medkd.networks.options import NetworkOptions

FORMAT = 1


class ModelDescription(Options):
    """The content of model.yaml."""

    format: int = FORMAT
    task: str = "segmentation"
    network: NetworkOptions
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    preprocess: Preprocess
    trained: dict[str, Any] = Field(default_factory=dict)

    def build(self) -> nn.Module:
        p = self.preprocess
        return self.network.build(p.dims, len(self.channels), len(self.classes), p.patch)


@dataclass(frozen=True)
class Model:
    description: ModelDescription
    network: nn.Module
    folder: Path


def write_model(folder: Path, description: ModelDescription, weights: dict[str, Tensor], card: str) -> None:
    """Write a model folder; each file appears whole or not at all, model.yaml last."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False)
    contents = {
        "model.safetensors": save({k: v.contiguous() for k, v in weights.items()}),
        "model_card.md": card.encode(),
        "model.yaml": text.encode(),
    }
    for name, data in contents.items():
        temporary = folder / (name + ".partial")
        temporary.write_bytes(data)
        temporary.replace(folder / name)


def load_model(path: Path, weights: Path | None = None) -> Model:
    """Load a model folder, or the `model/` of a run folder; `weights` replaces model.safetensors.

    Raises InputError: no model there, a description of another version, weights of another network, files that are not
    safetensors (they are never opened in any other way).
    """
    folder = path / "model" if (path / "model" / "model.yaml").is_file() else path
    if not (folder / "model.yaml").is_file():
        raise InputError(f"no model at {path}; allowed: a model folder (with model.yaml), or a finished run folder")
    try:
        description = ModelDescription.model_validate(yaml.safe_load((folder / "model.yaml").read_text()))
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{folder / 'model.yaml'} is not a model description of this version: {error}") from None
    network = description.build()
    load_module(network, read_weights(weights or folder / "model.safetensors"), str(weights or folder))
    return Model(description, network.eval(), folder)


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; anything else is refused unread."""
    try:
        return load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a safetensors file ({error}); medkd loads weights from safetensors only, because opening "
            ".pt, .pth and other pickles can run code"
        ) from None
