"""The benchmark compares like with like: every dense loss is there, and ours compute what torchdistill's do."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest
import torch

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "distill_cost.py"
SIZE = (2, 4, 10, 12, 9)


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("distill_cost", SCRIPT)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_both_libraries_are_given_the_same_computation(script: ModuleType) -> None:
    pytest.importorskip("torchdistill", reason="torchdistill is in the extra `test`")
    given, ours, theirs = script.tensors(SIZE), script.ours(SIZE), script.torchdistill(SIZE)
    voxels = SIZE[2] * SIZE[3] * SIZE[4]
    factors = {  # theirs / ours, known: test_against_torchdistill.py
        "Hinton": voxels / 16,  # its sum over voxels is divided by samples alone, and the factor T^2 is dropped
        "DIST": 1.0,
        "Attention Transfer": 1.0,
    }
    for name, factor in factors.items():
        assert theirs[name](*given).item() == pytest.approx(factor * ours[name](*given).item(), rel=1e-4), name
    assert theirs.keys() <= ours.keys()


def test_a_step_is_forward_and_backward_of_every_loss(script: ModuleType) -> None:
    given = script.tensors(SIZE)
    for name, loss in script.all_losses(SIZE).items():
        assert script.step(loss, *given) > 0
        assert given[0].grad is not None, name
        assert given[0].grad.abs().sum() > 0, name


def test_the_page_is_made_of_ratios_within_a_round(script: ModuleType) -> None:
    names = list(script.all_losses(SIZE))
    memory = dict.fromkeys(names, 300.0) | {script.NOTHING: 100.0, script.NOTHING + script.THEIRS: 200.0}
    memory[script.PLAIN] = 200.0
    spent = {name: [1.0, 6.0] for name in names} | {script.PLAIN: [0.5, 2.0]}
    text = script.page(SIZE, spent, memory, (1.0, 2.0))
    row = next(line for line in text.splitlines() if line.startswith("| CWD |"))
    assert "| 3.50 | 2.50 |" in row  # median seconds, median of 2 and 3: not the ratio of medians, 2.80
    assert row.split("|")[6].strip() == "2.00"
    if f"DIST{script.THEIRS}" in names:
        assert re.search(r"\| DIST \|.*\| 1\.00 \| 2\.00 \|$", text, re.M)


def test_a_fresh_process_tells_its_largest_size(script: ModuleType) -> None:
    small, big = (1, 2, 8, 8, 8), (1, 2, 128, 128, 128)  # this process is larger than the small one, and not counted
    grown = script.largest_resident_size(script.NOTHING, big) - script.largest_resident_size(script.NOTHING, small)
    assert grown > 2 * torch.Size(big).numel() * 4 / 2**20
