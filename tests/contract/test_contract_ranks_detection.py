"""Contract item 16 for detection: what two real processes (gloo) keep, and where they are not one process.

Faster R-CNN samples regions by a generator of each rank, and every detector divides by the regions or positives of its
own forward, so two ranks are another training than one process. What must hold: both ranks end alike to the last bit,
and the relational context counts what all ranks saw before it normalises."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_detection import NAMES
from two_ranks_detection import STEPS

from medkd.engine.checkpoint import load_state

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two ranks and a single process end with, by method."""
    out = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    here = Path(__file__).parent
    script = [sys.executable, str(here / "two_ranks_detection.py"), str(out)]
    group = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environments = [{}, *({"RANK": str(r), "LOCAL_RANK": str(r), **group} for r in range(2))]
    paths = os.pathsep.join([str(here.parent / "detection"), os.environ.get("PYTHONPATH", "")])
    plain = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    plain |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": paths}
    started = [
        subprocess.Popen(script, env=plain | e, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for e in environments
    ]
    texts = [process.communicate(timeout=280)[0] for process in started]
    assert [process.returncode for process in started] == [0, 0, 0], "\n".join(texts)
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
