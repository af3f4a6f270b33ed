"""medkd methods: what exists."""

from __future__ import annotations

import json
from typing import Annotated

import typer


def methods(as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False) -> None:
    """List the methods: name, task, paper, what each needs."""
    from medkd.config.registry import methods as registered

    rows = [
        {
            "name": name, "tasks": list(o.tasks), "paper": o.paper, "summary": o.summary,
            "needs": list(o.needs), "candidates": list(o.candidates),
        }
        for name, o in registered().items()
    ]  # fmt: skip
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("name", "tasks", "needs", "what it does", "paper")
    for row in rows:
        cells = (row["name"], ", ".join(row["tasks"]), ", ".join(row["needs"]), row["summary"], row["paper"])
        table.add_row(*map(str, cells))
    Console().print(table)
