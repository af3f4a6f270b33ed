"""The contract of docs/architecture.md, for every method a recipe can name. Item 16, two processes, is slow.

A new method is in it by being registered."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Networks this small only lose time on several threads, and bits are compared."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class _Writer:
    def __init__(self, folder: str):
        self.folder = folder

    def add_scalar(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes seconds and nothing here reads events."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=_Writer))
