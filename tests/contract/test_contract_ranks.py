"""Contract item 16: two processes equal one process with the doubled batch. One group serves all methods in turn."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import Process, finished, ranks
from tiny_setting import NAMES

from medkd.engine.checkpoint import load_state

pytestmark = pytest.mark.slow

TOLERANCE = 1e-9
BATCH_STATISTICS = {
    "unimatch": (0.01, "the Dice sums over the batch (batch_squared): each rank has the Dice of its half"),
}
"""Methods whose loss depends on how the batch is split: how far the weights may be apart after three steps, and why."""


@pytest.fixture(scope="module")
def ends(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What two ranks and a single process end with, by method."""
    out = tmp_path_factory.mktemp("ranks")
    script = [sys.executable, str(Path(__file__).with_name("two_ranks.py")), str(out)]
    with Process(script) as alone, ranks(script, 2) as two:
        finished([alone, *two], within=400)
    return {rank: load_state(out / f"rank{rank}.safetensors") for rank in ("none", "0", "1")}


@pytest.mark.parametrize("name", NAMES)
def test_item_16_two_ranks_equal_one_process_with_the_doubled_batch(name: str, ends: dict[str, Any]) -> None:
    """Parameters, teachers, buffers, and the logged means."""
    whole, half = ends["none"][name], ends["0"][name]
    assert whole.keys() == half.keys()
    tolerance, _ = BATCH_STATISTICS.get(name, (TOLERANCE, ""))
    apart = {k: float((whole[k].double() - half[k].double()).abs().max()) for k in whole}
    logs = {k for k in whole if k.startswith("log.")}  # logged in float32
    assert max(v for k, v in apart.items() if k not in logs) <= tolerance, apart
    assert max(v for k, v in apart.items() if k in logs) <= max(10 * tolerance, 1e-5), apart
    assert 0.05 < float(whole.get("log.certain", 0.5)) < 0.95  # else a mask over all or none hides its count
    if name in BATCH_STATISTICS:  # a listing that no longer holds fails
        assert max(apart.values()) > TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_item_16_the_ranks_end_alike_to_the_last_bit(name: str, ends: dict[str, Any]) -> None:
    one, other = ends["0"][name], ends["1"][name]
    assert [k for k in one if not torch.equal(one[k], other[k])] == []
