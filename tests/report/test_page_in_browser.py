"""The page as a browser shows it."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from medkd.report.curves import training_curves
from medkd.report.page import Page
from medkd.report.pictures import Slice, overlay_grid

MISSED = np.array([0.85 * v for v in (0xFF, 0x4B, 0x3E)]) / 255


@pytest.fixture
def page(tmp_path: Path) -> Path:
    truth = np.zeros((40, 40), np.uint8)
    truth[10:30, 10:30] = 1
    made = Page("Evaluation", "two patients")
    made.picture(
        overlay_grid([Slice("p1", np.zeros((40, 40)), truth, 0 * truth)], ("background", "rv")), "c", "one overlay"
    )
    made.table([f"column {i}" for i in range(30)], [list(range(30))])
    row = {"kind": "train", "phase": "a", "step": 1, "global_step": 1, "loss": 1.0}
    made.picture(training_curves([row]), "c", "a curve")
    made.write(tmp_path / "page.html")
    return tmp_path / "page.html"


def screenshot(page: Path, width: int) -> np.ndarray:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("chromium is not on PATH")
    out = page.with_name(f"{width}.png")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={page.parent / 'profile'}", f"--screenshot={out}", f"--window-size={width},2000",
        page.as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    return imread(out)[..., :3]


@pytest.mark.slow
def test_the_browser_shows_text_and_embedded_pictures(page: Path) -> None:
    shown = screenshot(page, 1200)
    assert shown.shape == (2000, 1200, 3)
    assert np.ptp(shown) > 0.8, "the page is blank"
    assert (np.abs(shown - MISSED) < 0.03).all(-1).sum() > 2000, "the disagreement of the overlay is not to be seen"


@pytest.mark.slow
def test_a_small_screen_scrolls_tables_and_pictures_but_not_the_page(page: Path) -> None:
    """Past the right margin there is nothing but paper: a wide table is cut there, and scrolls."""
    shown = screenshot(page, 500)
    paper = shown[-1, -1]
    assert shown.shape == (2000, 500, 3)
    assert np.abs(shown[:, -12:] - paper).max() < 0.02
    assert np.ptp(shown[:, :-12]) > 0.8
