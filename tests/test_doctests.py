"""Every module imports, and the examples in its docstrings are true."""

from __future__ import annotations

import doctest
import importlib
import importlib.util
import pkgutil

import pytest

import medkd

OPTIONAL = set() if importlib.util.find_spec("detectron2") else {"detectron2_heads", "detectron2_rcnn"}
"""Modules of a library that users build for themselves."""
MODULES = [
    m.name
    for m in pkgutil.walk_packages(medkd.__path__, "medkd.")
    if m.name != "medkd.__main__" and m.name.rpartition(".")[2] not in OPTIONAL
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    found = [t for name in MODULES for t in finder.find(importlib.import_module(name)) if t.examples]
    assert len(found) >= 5
