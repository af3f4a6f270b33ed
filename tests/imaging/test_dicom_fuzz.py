"""Thousands of broken files: clean refusals only. `benchmarks/dicom_fuzz.py` writes the same run into a page."""

from __future__ import annotations

import pytest
from fuzz_dicom import Report, run_apart


def check(report: Report, seconds: float, peak: float) -> None:
    print(f"{report.outcomes}; longest {report.longest[0]:.2f} s ({report.longest[1]}); peak {report.peak:.0f} MiB")
    assert report.wrong == []
    assert report.longest[0] < seconds
    assert report.peak < peak
    assert report.outcomes["refused"] > sum(report.outcomes.values()) / 3
    assert report.outcomes["read"] > 0


def test_some_broken_files() -> None:
    check(run_apart(0, 150, seconds=300), seconds=30, peak=1000)


@pytest.mark.slow
@pytest.mark.timeout(1600)  # minutes on an idle machine
def test_four_thousand_broken_files() -> None:
    check(run_apart(150, 4150, seconds=1500), seconds=30, peak=1000)
