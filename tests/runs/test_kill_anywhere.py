"""benchmarks/kill_resume.py with few kills; the page of a hundred is docs/results/recovery.md."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from processes import Process, finished

CODE = """
import sys
from pathlib import Path
import kill_resume
outcome = kill_resume.experiment(Path(sys.argv[1]), 6, 1)
print(outcome)
sys.exit(bool(outcome.different) or len(outcome.kills) != 6 or not outcome.finished)
"""


@pytest.mark.slow
def test_six_kills_end_where_the_undisturbed_run_ends(tmp_path: Path) -> None:
    """In a process of its own, which has run nothing before it forks."""
    paths = os.pathsep.join([str(Path(__file__).parents[2] / "benchmarks"), *sys.path])
    with Process([sys.executable, "-c", CODE, str(tmp_path)], PYTHONPATH=paths) as experiment:
        finished([experiment], within=500)
