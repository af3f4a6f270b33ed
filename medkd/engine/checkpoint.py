"""Checkpoints: one safetensors file a checkpoint, written atomically, loaded without ever unpickling.

A state is a tree of dicts, lists, tuples, numbers, strings and tensors. The tensors go into the safetensors body, the
rest as JSON into its header, so that a file is either whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from medkd.errors import InputError


def save_state(path: Path, state: dict[str, Any]) -> None:
    """Write `state` to `path`: to a temporary file first, flushed to disk, then renamed over the old one."""
    write_whole(path, pack_state(state)).replace(path)
    sync_folder(path.parent)


def load_state(path: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, tensors on the CPU. Raises InputError for anything else; executes nothing."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise _not_ours(path.name, error) from None
    return unpack_state(data, path.name)


def pack_state(state: dict[str, Any]) -> bytes:
    """A state as the bytes of a safetensors file. Raises TypeError for what is neither tensor nor JSON."""
    tensors: dict[str, Tensor] = {}
    skeleton = json.dumps(_pack(state, "", tensors))
    return save(tensors, metadata={"state": skeleton})


def unpack_state(data: bytes, name: str) -> dict[str, Any]:
    """What `pack_state` was given, tensors on the CPU. Raises InputError for anything else; executes nothing."""
    try:
        tensors = load(data)  # checks the whole layout
        length = int.from_bytes(data[:8], "little")
        skeleton = json.loads(data[8 : 8 + length])["__metadata__"]["state"]
        state: dict[str, Any] = _unpack(json.loads(skeleton), tensors)
    except (SafetensorError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise _not_ours(name, error) from None
    return state


def write_whole(path: Path, data: bytes) -> Path:
    """Write `data` beside `path` and flush it to disk; return the temporary file, which goes if that fails."""
    temporary = path.with_name(path.name + ".partial")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to disk: a rename is safe from a power cut only then."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_ours(name: str, error: Exception) -> InputError:
    return InputError(
        f"{name} is not a whole medkd checkpoint ({error}); allowed: a .safetensors file that medkd wrote. "
        "Files in other formats (.pt, .pth, pickles) are never opened, because opening them can run code"
    )


def _pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = f"{len(tensors)}:{name}"  # the paths of different entries can read alike: 0 and "0", a -> b and "a.b"
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[k, _pack(v, f"{name}.{k}" if name else str(k), tensors)] for k, v in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_pack(v, f"{name}.{i}", tensors) for i, v in enumerate(value)]}
    if value is None or isinstance(value, (bool, int, float, str)):
        return {"value": value}
    raise TypeError(f"{name}: a {type(value).__name__} cannot be put into a checkpoint")


def _unpack(value: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = value.items()
    match kind:
        case "tensor":
            return tensors[content]
        case "dict":
            return {k: _unpack(v, tensors) for k, v in content}
        case "list":
            return [_unpack(v, tensors) for v in content]
        case "value":
            return content
    raise ValueError(f"unknown entry {kind!r}")


def load_module(module: nn.Module, state: dict[str, Tensor], source: str) -> None:
    """Load weights into a module; raise InputError that names what differs if they belong to another network."""
    mine = module.state_dict()
    missing = sorted(mine.keys() - state.keys())
    extra = sorted(state.keys() - mine.keys())
    shapes = [
        f"{k} is {tuple(state[k].shape)}, needed {tuple(mine[k].shape)}"
        for k in sorted(mine.keys() & state.keys())
        if isinstance(mine[k], Tensor) and mine[k].shape != state[k].shape
    ]
    if missing or extra or shapes:
        notes = [f"missing {missing[:3]}" if missing else "", f"unknown {extra[:3]}" if extra else "", *shapes[:3]]
        raise InputError(
            f"{source} holds the weights of another network: {'; '.join(n for n in notes if n)}. "
            "Use the recipe the weights were trained with, or other weights"
        )
    module.load_state_dict(state)


def grown(module: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """`state` with the module's own rows added where it has more: a head for more classes keeps what it knew."""
    result = dict(state)
    for name, mine in module.state_dict().items():
        old = state.get(name)
        if isinstance(mine, Tensor) and isinstance(old, Tensor) and mine.ndim and mine.shape[1:] == old.shape[1:]:
            result[name] = torch.cat([old.to(mine), mine[len(old) :]]) if len(old) < len(mine) else old
    return result


def fingerprint(module: nn.Module) -> str:
    """Hash of all parameters and buffers: equal for equal weights."""
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
