"""What docs/engine.md says is what happens."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from medkd.engine.runtime import ONE_PROCESS
from medkd.engine.signals import PATIENCE, SAME

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/engine.md").read_text()


def test_the_method_of_the_page_runs_and_learns(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    names: dict[str, object] = {}
    exec(compile(code, "docs/engine.md", "exec"), names)
    score, slope = map(float, re.findall(r"-?\d+\.\d+", capsys.readouterr().out))
    assert score > -1e-3
    assert slope == pytest.approx(3.0, abs=0.05)
    again = names["fit"]([names["phase"]], names["network"], names["Line"](), ONE_PROCESS, seed=0)
    assert again.score == names["selection"].score


def test_the_method_itself_has_no_more_than_thirty_lines() -> None:
    (body,) = re.findall(r"^class Agreement.*?(?=^class Line)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(body.strip().splitlines()) <= 30


def test_the_numbers_and_files_of_the_page() -> None:
    assert f"more than {SAME:.0f} s after the first, or no answer within {PATIENCE:.0f} s" in PAGE
    for path in re.findall(r"`((?:medkd|tests|docker|configs)/[\w/.-]+)`", PAGE):
        assert (ROOT / path).exists(), path
