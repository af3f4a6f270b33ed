"""medkd doctor: what this machine and installation can do."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="print the checks as JSON")] = False,
) -> None:
    """Versions, devices, threads, disk, shared memory, and the DICOM syntaxes that can be decoded; with advice."""
    from medkd.runs.doctor import Check, examine

    checks = examine()
    if as_json:
        rows = [{"name": c.name, "found": c.found, "ok": c.ok, "advice": c.advice} for c in checks]
        print(json.dumps({"checks": rows}, indent=1))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("", "check", "found", "what to do")
    syntaxes = [check for check in checks if check.name.startswith("DICOM ")]
    readable = [check for check in syntaxes if check.ok]
    summary = Check("DICOM", f"{len(readable)} of {len(syntaxes)} transfer syntaxes can be decoded")
    for check in [*(check for check in checks if check not in syntaxes), summary, *syntaxes]:
        if check not in readable:
            mark = Text("ok", "green") if check.ok else Text("look", "yellow")
            table.add_row(mark, *(Text(cell) for cell in (check.name, check.found, check.advice)))
    Console().print(table)
    open_points = sum(not check.ok for check in checks)
    print(f"{len(checks)} checks, {open_points} to look at" if open_points else f"{len(checks)} checks, all well")
