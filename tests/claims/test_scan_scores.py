"""The table of scans by arm: means over classes and seeds, and only when every finished run's evaluation is there;
and the interval of a difference over the patients in it."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from medkd.claims import scan_scores as module
from medkd.claims.runner import Run
from medkd.claims.scan_scores import evaluated, over_patients, scan_dice, write_scan_scores

HEAD = "case,class,dice,hd95_max_voxel"


def test_classes_without_a_score_are_left_out(tmp_path: Path) -> None:
    table = tmp_path / "cases.csv"
    table.write_text(f"{HEAD}\none,rv,0.5,1\none,lv,,\ntwo,rv,0.25,2\ntwo,lv,0.75,1\nempty,rv,,\n")
    assert scan_dice(table) == {"one": 0.5, "two": 0.5}


@pytest.fixture
def runs(tmp_path, tiny, monkeypatch):
    """The experiment with three finished runs: two seeds of labelled_only, one of bcp."""
    experiment = tiny()
    dice = {Run("labelled_only", 0): (0.2, 0.4), Run("labelled_only", 1): (0.4, 0.8), Run("bcp", 0): (0.9, 0.7)}
    for run, (one, two) in dice.items():
        table = evaluated(experiment, run, tmp_path)
        table.parent.mkdir(parents=True)
        table.write_text(f"{HEAD}\none,rv,{one},1\ntwo,rv,{two},1\n")
    monkeypatch.setattr(module, "finished", lambda experiment, folder: {run: {} for run in dice})
    tested = [SimpleNamespace(id="one", patient="p"), SimpleNamespace(id="two", patient="q")]
    monkeypatch.setattr(module, "read_dataset", lambda folder: SimpleNamespace(select=lambda split: tested))
    return dataclasses.replace(experiment, dataset=lambda run, work: work / "data")


def test_mean_over_the_seeds_in_the_order_of_the_arms(tmp_path: Path, runs) -> None:
    write_scan_scores(runs, tmp_path)
    table = (tmp_path / "by_scan.csv").read_text()
    assert table == "scan,patient,labelled_only,bcp\none,p,0.3000,0.9000\ntwo,q,0.6000,0.7000\n"
    assert (tmp_path / "by_scan.png").read_bytes().startswith(b"\x89PNG")


def test_the_last_table_stays_where_an_evaluation_is_missing(tmp_path: Path, runs) -> None:
    (tmp_path / "by_scan.csv").write_text("as committed")
    evaluated(runs, Run("labelled_only", 1), tmp_path).unlink()
    write_scan_scores(runs, tmp_path)
    assert (tmp_path / "by_scan.csv").read_text() == "as committed"
    assert not (tmp_path / "by_scan.png").exists()


def test_a_patient_counts_once_however_many_scans_it_has(tmp_path: Path) -> None:
    """Two patients: +0.3 in one scan, and a mean of -0.1 in two. Every resample has 0, 1 or 2 of the first."""
    rows = ["scan,patient,a,b", "1,p,0.8,0.5", "2,q,0.5,0.5", "3,q,0.4,0.6", "4,r,,0.5"]
    (tmp_path / "by_scan.csv").write_text("\n".join(rows) + "\n")
    found = over_patients(tmp_path, "a", "b")
    assert found is not None
    assert np.allclose((found.mean, found.low, found.high), (0.1, -0.1, 0.3))


def test_no_interval_without_both_arms_or_with_a_table_that_names_no_patients(tmp_path: Path) -> None:
    assert over_patients(tmp_path, "a", "b") is None
    (tmp_path / "by_scan.csv").write_text("scan,patient,a\n1,p,0.8\n")
    assert over_patients(tmp_path, "a", "b") is None
    (tmp_path / "by_scan.csv").write_text("scan,a,b\n1,0.8,0.5\n")
    assert over_patients(tmp_path, "a", "b") is None
