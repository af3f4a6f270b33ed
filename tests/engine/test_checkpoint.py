from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn
from toy_problem import equal_trees

from medkd.engine.checkpoint import fingerprint, load_module, load_state, save_state
from medkd.errors import InputError


def tensors() -> st.SearchStrategy[torch.Tensor]:
    dtypes = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.uint8]
    shapes = st.sampled_from([(), (0,), (3,), (2, 3), (1, 0, 2)])
    return st.builds(
        lambda d, s, n: (torch.arange(24)[: _size(s)] + n).reshape(s).to(d),
        st.sampled_from(dtypes),
        shapes,
        st.integers(0, 9),
    )


def _size(shape: tuple[int, ...]) -> int:
    return int(torch.Size(shape).numel())


KEYS = st.one_of(st.integers(-3, 12), st.sampled_from(["a", "b", "a.b", "0", "", "layer.0.weight"]))
LEAVES = st.one_of(
    tensors(), st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=5), st.just(float("-inf"))
)
TREES = st.dictionaries(
    KEYS,
    st.recursive(
        LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8
    ),
    max_size=4,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(TREES)
@example({"a": {"b": torch.zeros(1)}, "a.b": torch.ones(1)})
@example({0: torch.zeros(1), "0": torch.ones(1), "": {"0": torch.ones(2)}})
def test_any_tree_comes_back_bit_for_bit(tmp_path: Path, state: dict[Any, Any]) -> None:
    """Integer and text keys stay apart, and so do tensors whose dotted paths are the same ("a.b" and a -> b)."""
    save_state(tmp_path / "s.safetensors", state)
    assert equal_trees(load_state(tmp_path / "s.safetensors"), state)


def test_optimiser_and_scaler_states_come_back(tmp_path: Path) -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(layer.parameters(), 0.1)
    layer(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    state = {"optimizer": optimizer.state_dict(), "scaler": torch.amp.GradScaler("cpu").state_dict(), "score": -1.5}
    save_state(tmp_path / "s.safetensors", state)
    back = load_state(tmp_path / "s.safetensors")
    assert equal_trees(back["optimizer"]["state"], state["optimizer"]["state"])
    other = torch.optim.AdamW(nn.Linear(3, 2).parameters(), 0.1)
    other.load_state_dict(back["optimizer"])
    assert float(other.state_dict()["state"][0]["step"]) == 1.0
    assert equal_trees(back["scaler"], state["scaler"])


def test_views_and_shared_tensors_are_stored_by_value(tmp_path: Path) -> None:
    base = torch.arange(6.0).reshape(2, 3)
    state = {"transposed": base.T, "row": base[1], "again": base}
    save_state(tmp_path / "s.safetensors", state)
    assert equal_trees(load_state(tmp_path / "s.safetensors"), {k: v.contiguous() for k, v in state.items()})


def test_an_object_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"run\.bank: a set"):
        save_state(tmp_path / "s.safetensors", {"run": {"bank": {1, 2}}})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", ["fsync", "replace"])
def test_a_failure_while_writing_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    path = tmp_path / "last.safetensors"
    save_state(path, {"step": 1})

    def fail(*_: object) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patch:
        patch.setattr(*((os, "fsync") if stage == "fsync" else (Path, "replace")), fail)
        with pytest.raises(OSError, match="disk full"):
            save_state(path, {"step": 2})
    assert load_state(path) == {"step": 1}
    save_state(path, {"step": 3})
    assert load_state(path) == {"step": 3}
    assert [p.name for p in tmp_path.iterdir()] == ["last.safetensors"]


@pytest.mark.parametrize("keep", [0, 4, 8, 40, 0.5, -1])
def test_a_truncated_file_is_an_input_error(tmp_path: Path, keep: float) -> None:
    path = tmp_path / "last.safetensors"
    save_state(path, {"weights": torch.arange(100.0), "step": 1})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(InputError, match="not a whole medkd checkpoint"):
        load_state(path)


class Payload:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self) -> Any:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("how", ["pickle", "torch zip", "torch legacy"])
def test_a_pickle_under_our_name_is_refused_and_never_run(tmp_path: Path, how: str) -> None:
    path, harm = tmp_path / "last.safetensors", tmp_path / "harm"
    if how == "pickle":
        path.write_bytes(pickle.dumps(Payload(harm)))
    else:
        torch.save({"w": Payload(harm)}, path, _use_new_zipfile_serialization=how == "torch zip")
    with pytest.raises(InputError, match="never opened"):
        load_state(path)
    assert not harm.exists()
    if how == "pickle":
        pickle.loads(path.read_bytes())
    else:
        torch.load(path.rename(tmp_path / "last.pt"), weights_only=False)
    assert harm.exists()  # the payload works: it was refused, not broken


@pytest.mark.parametrize(
    "metadata", [None, {"state": "{"}, {"state": "[]"}, {"state": "3"}, {"state": '{"tensor": "w"}'}, {"state": "{}"}]
)
def test_a_safetensors_file_of_somebody_else_is_an_input_error(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    save_file({"x": torch.zeros(2)}, tmp_path / "m.safetensors", metadata=metadata)
    with pytest.raises(InputError, match="not a whole medkd checkpoint"):
        load_state(tmp_path / "m.safetensors")


@pytest.mark.parametrize("name", ["missing.safetensors", "."])
def test_no_file_is_an_input_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="not a whole medkd checkpoint"):
        load_state(tmp_path / name)


def test_weights_of_another_network_are_named() -> None:
    with pytest.raises(InputError) as error:
        load_module(nn.Linear(3, 2), {"weight": torch.zeros(2, 4), "scale": torch.zeros(1)}, "model.safetensors")
    text = str(error.value)
    for part in ("model.safetensors", "missing ['bias']", "unknown ['scale']", "weight is (2, 4), needed (2, 3)"):
        assert part in text
    layer = nn.Linear(3, 2)
    load_module(layer, nn.Linear(3, 2).state_dict(), "x")
    mixed = nn.Linear(3, 2)
    before = mixed.weight.clone()
    with pytest.raises(InputError):
        load_module(mixed, {"weight": torch.zeros(2, 3)}, "x")
    assert torch.equal(mixed.weight, before)  # nothing was loaded by halves


def test_fingerprint_depends_on_every_bit() -> None:
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    before = fingerprint(net)
    assert fingerprint(net) == before
    net[1].num_batches_tracked += 1
    counted = fingerprint(net)
    with torch.no_grad():
        net[0].bias[0] = torch.nextafter(net[0].bias[0], torch.tensor(9.0))
    assert len({before, counted, fingerprint(net)}) == 3
    assert fingerprint(net.to(torch.bfloat16)) != before
