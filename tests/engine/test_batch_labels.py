"""Labels of a batch are a tensor, or rows of the task's own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from medkd.engine.method import Batch
from medkd.engine.randomness import Draws
from medkd.engine.runtime import Runtime


@dataclass(frozen=True)
class Boxes:
    count: int


def batch(label: object) -> Batch:
    return Batch(torch.arange(4.0)[:, None], label, tuple("abcd"), Draws((0, 0, "x"), 4))  # type: ignore[arg-type]


def test_rows_of_any_kind_are_split_with_their_images() -> None:
    rows = tuple(Boxes(number) for number in range(4))
    micro = batch(rows).micro(1, 2)
    assert micro.targets == rows[2:]
    assert micro.image[:, 0].tolist() == [2.0, 3.0]
    ranks = [Runtime(torch.device("cpu"), rank=rank, world=2).batch(batch(rows)) for rank in (0, 1)]
    assert [r.targets for r in ranks] == [rows[:2], rows[2:]]


def test_a_tensor_is_read_as_labels_and_rows_are_not() -> None:
    label = torch.arange(4)
    assert batch(label).labels is label
    assert batch(label).targets is label
    with pytest.raises(ValueError, match="are a tuple, not a tensor: read `targets`"):
        _ = batch((Boxes(1),) * 4).labels
    for name in ("labels", "targets"):
        with pytest.raises(ValueError, match="carries no labels"):
            getattr(batch(None), name)
