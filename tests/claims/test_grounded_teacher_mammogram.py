"""The one-class experiment in small: arms, errors of the expert, and that the module does nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from medkd.claims.grounded_teacher_mammogram import CLAIM, FALSE_BOXES, JITTER, MISSED, Size, difference, opinion, run


@pytest.mark.slow
def test_every_arm_is_scored_and_the_module_changes_no_bit() -> None:
    rows = run(3, Size((8, 1, 8), source=30, adapt=4))
    assert rows.keys() == CLAIM.arms.keys()
    assert rows["GT"]["difference"] == 0.0
    assert rows["GT, expert"]["difference"] == 0.0
    assert {name for row in rows.values() for name in row} == CLAIM.metrics.keys()


def test_the_difference_is_that_of_losses_and_weights(tmp_path: Path) -> None:
    for name, loss, weight in (("a", 1.0, 0.5), ("b", 1.0, 0.5), ("c", 1.25, 0.5), ("d", 1.0, 0.75)):
        (tmp_path / name / "weights").mkdir(parents=True)
        row = f'{{"kind": "train", "loss": {loss}, "loss_teacher": 2.0, "lr": {weight}}}\n'
        (tmp_path / name / "log.jsonl").write_text(row)
        save_file({"w": torch.tensor([weight, 1.0])}, tmp_path / name / "weights" / "last.safetensors")
    assert [difference(tmp_path / "a", tmp_path / other) for other in "bcd"] == [0.0, 0.25, 0.25]


def test_the_experts_errors_are_misses_jitter_and_false_boxes() -> None:
    rng = np.random.default_rng(0)
    truth, none = np.array([[40.0, 60, 60, 80]]), np.zeros((0, 4))
    found, right, wrong = [], [], []
    for _ in range(1500):
        boxes, sure = opinion(truth, (192, 144), rng)
        near = np.abs(boxes - truth).max(1, initial=0) < 10
        found += list(boxes[near])
        right += sure[near].tolist()
        boxes, sure = opinion(none, (192, 144), rng)
        wrong += sure.tolist()
        assert boxes.min(initial=0) >= 0
        assert (boxes <= [144, 192, 144, 192]).all()
    assert len(found) / 1500 == pytest.approx(1 - MISSED, abs=0.04)
    assert len(wrong) / 1500 == pytest.approx(FALSE_BOXES, abs=0.05)
    assert np.std(np.array(found) - truth, axis=0) == pytest.approx([JITTER * 20] * 4, rel=0.15)
    assert np.mean(right) > np.mean(wrong) + 0.1
    assert min(right) < max(wrong)  # no threshold tells them apart
