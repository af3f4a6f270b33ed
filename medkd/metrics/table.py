"""Scores on disk: one CSV row a class of a case, and the summary as a dict for JSON.

Every distance carries its definition and unit in its name (hd95_max_mm, assd_pooled_voxel, nsd_at_1mm).
Undefined values are empty cells and null. Patients are not written: the dataset's cases.csv knows them.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from medkd.metrics.cases import CaseScores, check_cases
from medkd.metrics.comparison import Comparison
from medkd.metrics.scores import METRICS
from medkd.metrics.summary import Summary


def write_csv(cases: Sequence[CaseScores], path: Path) -> None:
    """Write the per-case scores in full precision. Raises InputError if the cases were not scored alike."""
    check_cases(cases)
    columns = cases[0].rows[0].columns
    counts = ("prediction_voxels", "reference_voxels", "prediction_ml", "reference_ml")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(
            ["case", "class", *(columns[m] for m in METRICS), *counts, "empty_prediction", "empty_reference"]
        )
        for case in cases:
            for row in case.rows:
                scores = [getattr(row, m) for m in METRICS]
                voxels = [row.prediction_voxels, row.reference_voxels]
                volumes = ["" if row.voxel_ml is None else n * row.voxel_ml for n in voxels]
                empty = ["yes" if e else "no" for e in (row.empty_prediction, row.empty_reference)]
                cells = ["" if math.isnan(s) else s for s in scores]
                writer.writerow([case.case, row.name, *cells, *voxels, *volumes, *empty])


def as_json(result: Summary | Comparison) -> dict[str, Any]:
    """A plain dict of a summary or a comparison: metrics under their full names, NaN as None."""
    fields = asdict(result)
    columns = fields.pop("columns")
    return {name: _plain(value, columns) for name, value in fields.items()}


def _plain(value: Any, columns: Mapping[str, str]) -> Any:
    if isinstance(value, Mapping):
        return {columns.get(k, k): _plain(v, columns) for k, v in value.items()}
    return None if isinstance(value, float) and math.isnan(value) else value
