"""Contract item 16 for detection: what two real processes (gloo) keep, and where they are not one process.

Faster R-CNN samples regions by a generator of each rank, and every detector divides by the regions or positives of its
own forward, so two ranks are another training than one process. What must hold: both ranks end alike to the last bit,
and the relational context counts what all ranks saw before it normalises."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Process, finished, ranks
from tiny_detection import NAMES
from two_ranks_detection import STEPS

from medkd.engine.checkpoint import load_state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two ranks and a single process end with, by method."""
    out = tmp_path_factory.mktemp("ranks")
    script = [sys.executable, str(Path(__file__).with_name("two_ranks_detection.py")), str(out)]
    shared = {"PYTHONPATH": os.pathsep.join(sys.path)}  # tiny_sites is in another folder of tests
    with Process(script, **shared) as alone, ranks(script, 2, **shared) as two:
        finished([alone, *two], within=400)
    return {rank: load_state(out / f"rank{rank}.safetensors") for rank in ("none", "0", "1")}


@pytest.mark.parametrize("name", NAMES)
def test_the_ranks_end_alike_to_the_last_bit(name: str, ends: dict[str, Any]) -> None:
    one, other = ends["0"][name], ends["1"][name]
    assert [k for k in one if not torch.equal(one[k], other[k])] == []


@pytest.mark.parametrize("name", ["supervised_detection", "grounded_teacher"])
def test_two_ranks_count_for_the_relation_what_one_that_sees_all_counts(name: str, ends: dict[str, Any]) -> None:
    """Three updates of the matrix with weights that stay, each rank seeing half of the images: the same to the last
    bit. An average of the ranks' own matrices would differ, as their halves do."""
    whole, *ranks = (ends[rank][f"still {name}"] for rank in ("none", "0", "1"))
    watched = [k for k in whole if k.startswith(("relation.", "contexts."))]
    matrices = [whole[k] for k in watched if k.endswith("average")]
    assert matrices
    assert all((m > 0).sum() >= 2 for m in matrices)  # both classes were counted
    for rank in ranks:
        assert [k for k in watched if not torch.equal(rank[k], whole[k])] == []


def test_two_ranks_keep_the_crops_of_one_that_sees_all(ends: dict[str, Any]) -> None:
    """The banks of relation-guided mixing hold every rank's crops, in the order of the images."""
    whole, *ranks = (ends[rank]["still grounded_teacher"] for rank in ("none", "0", "1"))
    banks = [k for k in whole if k.startswith("banks.")]
    assert all(whole[f"banks.{name}.pushed"].sum() > STEPS for name in ("source", "target"))
    for rank in ranks:
        assert [k for k in banks if not torch.equal(rank[k], whole[k])] == []
