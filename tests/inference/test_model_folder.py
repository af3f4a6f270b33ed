from __future__ import annotations

import pickle
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from medkd.config.models import load_model
from medkd.data.options import Preprocess
from medkd.engine.checkpoint import fingerprint
from medkd.errors import InputError
from medkd.inference.model_folder import SegmentationModel, write_model
from medkd.networks.options import BasicUNetOptions


@pytest.fixture
def description() -> SegmentationModel:
    return SegmentationModel(
        network=BasicUNetOptions(features=(4, 4, 4, 4, 4)), channels=("mr",), classes=("background", "lesion"),
        preprocess=Preprocess(size=(32, 32), patch=(32, 32)), trained={"seed": 3},
    )  # fmt: skip


def write(folder: Path, description: SegmentationModel) -> nn.Module:
    network = description.build()
    write_model(folder, description, network.state_dict(), "card")
    return network


def test_round_trip(tmp_path: Path, description: SegmentationModel) -> None:
    network = write(tmp_path, description)
    model = load_model(tmp_path)
    assert fingerprint(model.network) == fingerprint(network)
    assert model.description == description
    assert not model.network.training
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.safetensors", "model.yaml", "model_card.md"]


def test_weights_of_another_network(tmp_path: Path, description: SegmentationModel) -> None:
    write(tmp_path, description)
    text = yaml.safe_load((tmp_path / "model.yaml").read_text())
    text["network"]["features"] = [8, 8, 8, 8, 8]
    (tmp_path / "model.yaml").write_text(yaml.safe_dump(text))
    with pytest.raises(InputError, match=r"weights of another network.*needed"):
        load_model(tmp_path)


class Payload:
    """Creates a file when unpickled."""

    def __init__(self, target: Path):
        self.target = target

    def __reduce__(self) -> tuple:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("how", ["pickle", "torch"])
def test_pickle_payload_is_refused_unexecuted(tmp_path: Path, description: SegmentationModel, how: str) -> None:
    folder = tmp_path / "model"
    write(folder, description)
    target = tmp_path / "executed"
    if how == "pickle":
        (folder / "model.safetensors").write_bytes(pickle.dumps(Payload(target)))
    else:
        torch.save({"weights": Payload(target)}, folder / "model.safetensors")
    with pytest.raises(InputError, match="can run code"):
        load_model(folder)
    assert not target.exists()
    pickle.loads(pickle.dumps(Payload(target)))  # the payload is live: it would have shown
    assert target.exists()


def test_python_object_in_model_yaml_is_refused(tmp_path: Path, description: SegmentationModel) -> None:
    write(tmp_path, description)
    target = tmp_path / "executed"
    (tmp_path / "model.yaml").write_text(f"format: !!python/object/apply:pathlib.Path.touch ['{target}']\n")
    with pytest.raises(InputError, match="not a model description"):
        load_model(tmp_path)
    assert not target.exists()


def test_no_model(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no model at"):
        load_model(tmp_path / "nothing")
