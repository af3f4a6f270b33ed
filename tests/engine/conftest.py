from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest


class _Writer:
    def __init__(self, folder: str):
        self.folder = folder

    def add_scalar(self, *_: object) -> None:
        pass

    def close(self) -> None:
        pass


@pytest.fixture
def no_tensorboard(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its import takes seconds; one test of the tracker writes real events."""
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=_Writer))
