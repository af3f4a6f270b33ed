"""The layout of docs/architecture.md, read from the source: which room imports which, and what comes without torch."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import medkd

ROOT = Path(medkd.__file__).parent
FLOORS = [
    {"cli"},
    {"claims"},
    {"runs"},
    {"config"},
    {"segmentation", "detection", "surgical", "classification"},
    {"distill", "inference"},
    {"networks", "metrics", "report", "data"},
    {"imaging"},
    {"engine"},
    {"errors"},
]
"""From the top down. Rooms of one floor do not import each other."""
FLOOR = {room: number for number, floor in enumerate(FLOORS) for room in floor}
TORCH_FREE = [
    "medkd",
    "medkd.config.registry",
    "medkd.config.recipe",
    "medkd.config.load",
    "medkd.cli.app",
    "medkd.imaging.dicom.read",
]


def imports(path: Path) -> list[tuple[str, int]]:
    """The medkd modules a file imports anywhere, also inside functions and for types only, with their lines."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level:
            found.append(("." * node.level, node.lineno))
        elif isinstance(node, ast.ImportFrom) and node.module == "medkd":
            found += [(f"medkd.{alias.name}", node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            found.append((node.module or "", node.lineno))
    return [(name, line) for name, line in found if name.startswith(("medkd", "."))]


def violations(room: str, path: Path) -> list[str]:
    problems = []
    for name, line in imports(path):
        other = name.split(".")[1] if name.startswith("medkd.") else ""
        where = f"{path.relative_to(ROOT)}:{line} imports {name}"
        if name.startswith("."):
            problems.append(f"{where}: write the full name")
        elif other in FLOOR and other != room and FLOOR[other] <= FLOOR[room]:
            problems.append(where)
    return problems


def test_every_room_has_its_floor() -> None:
    rooms = {path.name for path in ROOT.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert rooms <= FLOOR.keys()


@pytest.mark.parametrize("room", sorted(p.name for p in ROOT.iterdir() if p.is_dir() and any(p.glob("*.py"))))
def test_imports_run_downwards(room: str) -> None:
    problems = [problem for path in sorted((ROOT / room).rglob("*.py")) for problem in violations(room, path)]
    assert not problems, "\n".join(problems)


def test_the_reader_sees_upward_and_sideways_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check itself: each of these lines breaks the rule somewhere."""
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    file = tmp_path / "file.py"
    bad = {
        "imaging": "import medkd.data.dataset",
        "data": "def f():\n    from medkd.metrics.scores import s",
        "segmentation": "from medkd import detection",
        "engine": "from medkd.imaging.nifti import n",
        "runs": "from . import train",
    }
    for room, text in bad.items():
        file.write_text(text)
        assert len(violations(room, file)) == 1, room
    file.write_text("from medkd.engine.fit import fit\nfrom medkd.errors import InputError\nimport torch")
    assert violations("segmentation", file) == []


def test_names_and_options_come_without_torch() -> None:
    """`medkd methods`, `medkd config` and the messages about a recipe answer at once."""
    modules = [*TORCH_FREE, *sorted(_options())]
    code = f"import sys, {', '.join(modules)}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr or "torch was imported"


def _options() -> set[str]:
    files = [*ROOT.rglob("options.py"), *ROOT.rglob("*_options.py")]
    return {".".join(("medkd", *file.relative_to(ROOT).with_suffix("").parts)) for file in files}
