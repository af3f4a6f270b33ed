"""The report of prepare as a browser shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from archives import CLASSES, add_series, cohort, picture
from matplotlib.image import imread

from medkd.runs.prepare import prepare

ORANGE = np.array([0xE6, 0x9F, 0x00]) / 255
"""The outline of the first class."""


@pytest.mark.slow
def test_every_case_is_seen_with_its_label(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not on PATH")
    archive = cohort(tmp_path / "pacs", 7)
    add_series(archive / "gap", "patient9", "portal", picture(3))[3].unlink()
    prepare(archive, tmp_path / "data", classes=CLASSES, labelled=1, split=(0.6, 0.2, 0.2))
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]  # fmt: skip
    page = (tmp_path / "data/report.html").as_uri()
    shot = tmp_path / "page.png"
    subprocess.run(
        [*command, f"--screenshot={shot}", "--window-size=1200,2400", page],
        check=True,
        capture_output=True,
        timeout=120,
    )
    shown = imread(shot)[..., :3]
    outlines = (np.abs(shown - ORANGE) < 0.08).all(-1)
    rows = np.flatnonzero(outlines.any(1))
    groups = np.split(rows, np.flatnonzero(np.diff(rows) > 20) + 1)
    assert len(groups) >= 3, "two rows of cases and the legend"
    first_row = outlines[groups[0]].any(0)
    assert int((np.diff(first_row.astype(int)) == 1).sum()) >= 6, "six labels side by side"
    dom = subprocess.run([*command, "--dump-dom", page], check=True, capture_output=True, text=True, timeout=120).stdout
    assert "1 slice is missing" in dom
    assert "liver (ml)" in dom
