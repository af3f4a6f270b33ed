"""Scores on disk: headers that say definition and unit, empty cells for the undefined, no patients."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest

from medkd.errors import InputError
from medkd.metrics.cases import CaseScores
from medkd.metrics.comparison import paired_difference
from medkd.metrics.summary import summarise
from medkd.metrics.table import as_json, write_csv

Case = Callable[..., CaseScores]


def test_csv_rows(case: Case, tmp_path: Path) -> None:
    cases = [case("scan, 1", "patient-name", 1 / 3, 0.0), case("scan2", "q", 0.5, math.nan)]
    write_csv(cases, tmp_path / "scores.csv")
    assert "patient-name" not in (tmp_path / "scores.csv").read_text()
    with (tmp_path / "scores.csv").open(newline="") as file:
        first, missed, _, absent = csv.DictReader(file)
    assert list(first) == [
        *("case", "class", "dice", "jaccard", "hd95_max_mm", "assd_pooled_mm", "nsd_at_1mm"),
        *("prediction_voxels", "reference_voxels", "prediction_ml", "reference_ml"),
        *("empty_prediction", "empty_reference"),
    ]
    assert (first["case"], first["class"], float(first["dice"])) == ("scan, 1", "a", 1 / 3)
    assert (first["prediction_ml"], first["empty_prediction"]) == ("5.0", "no")
    assert (missed["dice"], missed["hd95_max_mm"]) == ("0.0", "")
    assert (missed["empty_prediction"], missed["empty_reference"]) == ("yes", "no")
    assert (absent["dice"], absent["empty_reference"]) == ("", "yes")


def test_csv_without_spacing(case: Case, tmp_path: Path) -> None:
    write_csv([case("1", "p", 0.5, unit="voxel", hd95_definition="pooled", voxel_ml=None)], tmp_path / "s.csv")
    with (tmp_path / "s.csv").open(newline="") as file:
        row = next(csv.DictReader(file))
    assert (row["hd95_pooled_voxel"], row["nsd_at_1voxel"], row["prediction_ml"]) == ("1.0", "0.5", "")


def test_csv_refuses_mixed_units(case: Case, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="voxel"):
        write_csv([case("1", "p", 0.5), case("2", "q", 0.5, unit="voxel")], tmp_path / "scores.csv")
    assert not (tmp_path / "scores.csv").exists()


def test_json_is_strict_and_names_the_definitions(case: Case) -> None:
    cases = [case("1", "patient-name", 0.5, 0.0), case("2", "q", 0.7, 0.0)]
    text = json.dumps(as_json(summarise(cases)), allow_nan=False)  # NaN is not JSON
    assert "patient-name" not in text
    summary = json.loads(text)
    assert summary["classes"]["a"]["metrics"]["dice"]["mean"] == pytest.approx(0.6)
    assert summary["classes"]["b"]["metrics"]["hd95_max_mm"]["mean"] is None
    assert summary["classes"]["b"]["missed"] == 2
    assert summary["mean_over_classes"]["metrics"]["hd95_max_mm"]["classes"] == 1
    comparison = json.loads(json.dumps(as_json(paired_difference(cases, cases)), allow_nan=False))
    assert comparison["mean_over_classes"]["dice"]["difference"]["mean"] == 0.0
    assert comparison["classes"]["b"]["assd_pooled_mm"]["undefined_both"] == 2
