"""A YAML config file of detectron2 as a tree of plain values. No torch and no detectron2; nothing in a file can run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

BASE = "_BASE_"
"""The key under which a config names the one that it changes, relative to its own folder."""
DEEPEST = 10
KEPT: dict[str, tuple[str, ...]] = {"MODEL": (), "INPUT": ("FORMAT",), "TEST": ("DETECTIONS_PER_IMAGE",)}
"""Sections and, of some, the only keys that make a network what it is."""


def read_network(path: Path) -> dict[str, Any]:
    """What a config says of the network. Data sets, output folders and paths of weights stay behind: they would travel
    with the model. Raises ValueError as `read_config`, and for a config of detectron2's first version."""
    tree = read_config(path)
    if tree.get("VERSION", 2) != 2:
        raise ValueError(f"{path} has VERSION {tree['VERSION']}; needed: 2 (let detectron2 write it anew)")
    found: dict[str, Any] = {}
    for section, names in KEPT.items():
        given = tree.get(section)
        if isinstance(given, dict):
            found[section] = {k: v for k, v in given.items() if k in names} if names else dict(given)
    found.get("MODEL", {}).pop("WEIGHTS", None)
    return found


def read_config(path: Path, depth: int = 0) -> dict[str, Any]:
    """A config with its bases. Raises ValueError: no such file, not plain YAML (a config may ask Python for objects;
    they are not made), a chain of bases without end."""
    if depth > DEEPEST:
        raise ValueError(f"{path}: more than {DEEPEST} configs, each the base of the next")
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ValueError(f"{path} cannot be read as plain YAML: {' '.join(str(error).split())}") from None
    if not isinstance(tree, dict):
        raise ValueError(f"{path} holds {type(tree).__name__}; a detectron2 config is a mapping")
    base = tree.pop(BASE, None)
    return tree if base is None else merged(read_config(path.parent / str(base), depth + 1), tree)


def merged(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """`base` with the values of `changes`, mapping by mapping; neither is changed."""
    result = dict(base)
    for key, value in changes.items():
        old = result.get(key)
        result[key] = merged(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return result
