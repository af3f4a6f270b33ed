"""The model folder: all that a prediction needs, and nothing that can run code.

model.safetensors   weights
model.yaml          task, network, preprocessing, channels, classes, how it was trained
model_card.md       the same for people
                    and what a task adds, such as a detector's relation.json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

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
    """The content of model.yaml; a task adds its network and what that expects of an image."""

    format: int = FORMAT
    task: str
    channels: tuple[str, ...]
    classes: tuple[str, ...]
    trained: dict[str, Any] = Field(default_factory=dict)

    def build(self) -> nn.Module:
        """The network, with weights of no meaning yet."""
        raise NotImplementedError(f"{type(self).__name__} does not implement build")


class SegmentationModel(ModelDescription):
    """Maps a scan to a class a voxel."""

    task: Literal["segmentation"] = "segmentation"
    network: NetworkOptions
    preprocess: Preprocess

    def build(self) -> nn.Module:
        p = self.preprocess
        return self.network.build(p.dims, len(self.channels), len(self.classes), p.patch)


@dataclass(frozen=True)
class Model:
    description: ModelDescription
    network: nn.Module
    folder: Path


def write_model(
    folder: Path,
    description: ModelDescription,
    weights: dict[str, Tensor],
    card: str,
    extra: Mapping[str, bytes] | None = None,
) -> None:
    """Write a model folder, with `extra` files; each appears whole or not at all, model.yaml last."""
    folder.mkdir(parents=True, exist_ok=True)
    text = yaml.safe_dump(description.model_dump(mode="json"), sort_keys=False)
    contents = {
        "model.safetensors": save({k: v.contiguous() for k, v in weights.items()}),
        "model_card.md": card.encode(),
        **(extra or {}),
        "model.yaml": text.encode(),
    }
    for name, data in contents.items():
        temporary = folder / (name + ".partial")
        temporary.write_bytes(data)
        temporary.replace(folder / name)


def open_model(path: Path, kinds: Mapping[str, type[ModelDescription]], weights: Path | None = None) -> Model:
    """Open a model folder, or the `model/` of a run folder; `weights` replaces model.safetensors.

    kinds: task -> what describes its models. Raises InputError: no model there, a model of a task that is not known, a
    description of another version, weights of another network, files that are not safetensors (they are never opened in
    any other way).
    """
    folder = model_folder(path)
    if not (folder / "model.yaml").is_file():
        raise InputError(f"no model at {path}; allowed: a model folder (with model.yaml), or a finished run folder")
    try:
        content = yaml.safe_load((folder / "model.yaml").read_text())
        task = content.get("task", "segmentation") if isinstance(content, dict) else None
        if not isinstance(task, str) or task not in kinds:
            raise InputError(f"{folder / 'model.yaml'} has the task {task!r}; allowed: {', '.join(kinds)}")
        description = kinds[task].model_validate(content)
    except (yaml.YAMLError, ValidationError) as error:
        raise InputError(f"{folder / 'model.yaml'} is not a model description of this version: {error}") from None
    network = description.build()
    load_module(network, read_weights(weights or folder / "model.safetensors"), str(weights or folder))
    return Model(description, network.eval(), folder)


def model_folder(path: Path) -> Path:
    """The model folder at `path`: the `model/` of a run folder, or `path` itself."""
    return path / "model" if (path / "model" / "model.yaml").is_file() else path


def read_weights(path: Path) -> dict[str, Tensor]:
    """Tensors of a safetensors file; anything else is refused unread."""
    try:
        return load(path.read_bytes())
    except (SafetensorError, OSError) as error:
        raise InputError(
            f"{path} is not a safetensors file ({error}); medkd loads weights from safetensors only, because opening "
            ".pt, .pth and other pickles can run code"
        ) from None
