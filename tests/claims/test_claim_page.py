"""The page says what the lines say, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from medkd.claims.bcp_acdc import ARMS, PRETRAIN, SELFTRAIN, acdc
from medkd.claims.experiment import Experiment
from medkd.claims.page import page, write_page
from medkd.claims.verdict import judge, summarise, table
from medkd.data.dataset import Dataset

BUDGET = f"{PRETRAIN}+{SELFTRAIN}"


@pytest.fixture
def experiment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Experiment:
    monkeypatch.setattr("medkd.claims.bcp_acdc._check", lambda dataset: None)
    return acdc(Dataset(tmp_path, "segmentation", ("mr",), ("background", "rv", "myo", "lv"), ()), 3)


def test_numbers_and_what_is_missing(experiment, line, tmp_path):
    lines = [line("bcp", seed, value, BUDGET) for seed, value in enumerate((0.7, 0.8, 0.75))]
    lines[1]["seconds"] = 36000.0  # the machine stalled
    lines += [line("labelled_only", 0, 0.5, BUDGET), line("labelled_only", 1, 0.52, BUDGET)]
    text = page(experiment, lines, tmp_path)
    assert f"**5 of {3 * len(ARMS)} runs are finished.**" in text
    row = next(r for r in text.splitlines() if r.startswith("| `bcp`:"))
    assert "**0.750 ± 0.050**" in row
    assert "| 3 |" in row
    assert "18,000" in row
    assert "| 6 |" in row  # missed, over the seeds
    assert "| 9.8 ± 0.0 | 10.0 |" in row  # processor minutes, and the median of the wall
    missing = re.search(r"Still missing: (.*)\.", text).group(1)
    assert "labelled_only seed 2" in missing
    assert "labelled_only seed 1" not in missing
    judged = "two seeds, no judgement"
    assert f"| bcp | labelled_only | +0.240 | +0.200, +0.280 | {judged} | +0.240, {judged} |\n" in text
    assert "the same parameters" not in text  # without counts the page does not claim it
    assert "- bcp at 0.75 or more: **reached**, 0.750 (3 seeds)" in text
    assert "- bcp at 0.15 or more over labelled_only: **reached**, 0.240 (2 seeds)" in text
    assert "- bcp at 0.15 or more over bcp_twin: not measured yet" in text
    assert "NaN" not in text


def test_start_weights_that_differ_are_said(experiment, line, tmp_path):
    counts = {"labelled": 3, "unlabelled": 67, "validation": 10, "test": 20}
    more = {"counts": counts, "split": "s", "labelled": "l"}
    alike = [line("bcp", 0, 0.7, BUDGET, **more), line("labelled_only", 0, 0.5, BUDGET, **more)]
    assert "start from the same parameters" in page(experiment, alike, tmp_path)
    assert "10 labelled validation patients, which choose the checkpoint, are more than the 3" in page(
        experiment, alike, tmp_path
    )
    alike[0] |= {"parameters": 100}  # the other line is of a version that did not count them
    assert "Arms of one seed start from the same parameters" in page(experiment, alike, tmp_path)
    alike[1]["start_weights"] = "other"
    assert "DIFFERENT" in page(experiment, alike, tmp_path)


def test_the_last_checkpoint_is_judged_beside_the_chosen_one(experiment, line, tmp_path):
    lines = [line(arm, s, v + s / 100, BUDGET) for arm, v in (("bcp", 0.6), ("bcp_twin", 0.5)) for s in range(3)]
    for one in lines[:3]:
        one["dice_last"] = 0.4
    assert "| bcp | bcp_twin | +0.100 | +0.100, +0.100, +0.100 | the direction holds | -0.100, does not" in page(
        experiment, lines, tmp_path
    )


def test_the_interval_over_patients_stands_beside_the_seeds(experiment, line, tmp_path):
    lines = [line(arm, s, v, BUDGET) for arm, v in (("bcp", 0.6), ("bcp_twin", 0.5)) for s in range(3)]
    (tmp_path / "by_scan.csv").write_text("scan,patient,bcp,bcp_twin\na,p,0.6,0.5\nb,q,0.6,0.5\n")
    assert "| +0.100, the direction holds | +0.100 to +0.100 |" in page(experiment, lines, tmp_path)


def test_an_aim_says_what_else_to_know(experiment, line, tmp_path):
    text = page(experiment, [line("bcp_long", 0, 0.76, BUDGET)], tmp_path)
    assert "- bcp_long at 0.75 or more: **reached**, 0.760 (1 seeds; a second attempt, planned when bcp had" in text


def test_pseudo_labels_on_other_scans_are_not_drawn_beside(experiment, line, tmp_path):
    """A run with 7 labelled patients has fewer unlabelled ones: its curve would be that of other scans."""
    hidden = [{"kind": "validation", "global_step": 9, "student/dice": 0.5, "teacher/hidden_dice": 0.5}]
    write_page(experiment, [line("bcp_7", 0, 0.7, BUDGET, validation=hidden)], tmp_path)
    assert not (tmp_path / "bcp_acdc" / "pseudo_labels.png").exists()
    write_page(experiment, [line("bcp", 0, 0.7, BUDGET, validation=hidden)], tmp_path)
    assert (tmp_path / "bcp_acdc" / "pseudo_labels.png").exists()


def test_a_page_without_runs(experiment, tmp_path):
    write_page(experiment, [], tmp_path)
    text = (tmp_path / "bcp_acdc.md").read_text()
    assert "**0 of" in text
    assert "Verdict" not in text


def test_the_verdict_follows_the_numbers(experiment, line):
    assert judge(np.array([0.05, 0.06, 0.04])) == "the direction holds"
    assert judge(np.array([0.05, -0.06, 0.04])) == "within noise"
    assert judge(np.array([-0.05, -0.06, -0.04])) == "does not hold here"
    assert judge(np.array([0.5])) == "one seed, no judgement"
    assert judge(np.array([0.5, 0.6])) == "two seeds, no judgement"
    worse = [line(arm, s, v + s / 100, BUDGET) for arm, v in (("bcp", 0.5), ("bcp_twin", 0.6)) for s in range(3)]
    result = summarise(experiment, worse)
    assert "bcp over bcp_twin: does not hold here (-0.100 Dice, 3 seeds)" in result["verdict"]
    assert "not the published setting" in result["verdict"]
    assert "| bcp | 3 | 0.510 | 0.010 |" in table(result)
