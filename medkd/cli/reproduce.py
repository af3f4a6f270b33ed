"""medkd reproduce: the honest experiment behind a claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from medkd.errors import InputError


def reproduce(
    name: Annotated[str | None, typer.Argument(help="the claim, for example bcp")] = None,
    data: Annotated[
        Path | None, typer.Option(help="a dataset folder of ACDC or of the hippocampus task; else generated patients")
    ] = None,
    seeds: Annotated[int, typer.Option(min=1, help="how many seeds")] = 3,
    out: Annotated[Path, typer.Option(help="one JSON line a finished run; a re-run skips what is finished")] = Path(
        "reproduce"
    ),
    page_only: Annotated[
        bool, typer.Option("--page-only", help="write the page of the finished runs, run none")
    ] = False,
    list_names: Annotated[bool, typer.Option("--list", help="list the claims")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="machine-readable")] = False,
) -> None:
    """Re-run the experiment of a claim, with all its arms, and say in words what it shows."""
    from medkd.claims import CLAIMS

    if list_names:
        rows = [{"name": key, "claim": claim} for key, claim in CLAIMS.items()]
        print(json.dumps(rows, indent=1) if as_json else "\n".join(f"{r['name']}: {r['claim']}" for r in rows))
        return
    if name not in CLAIMS:
        raise InputError(f"no claim {name!r}; allowed: {', '.join(CLAIMS)} (medkd reproduce --list)")

    from rich.console import Console

    from medkd.claims.bcp import experiment_on, summarise, table
    from medkd.claims.reproduce import reproduce as run

    experiment = experiment_on(data, seeds)
    result = summarise(experiment, run(experiment, out, page_only=page_only, console=Console(stderr=True)))
    if as_json:
        print(json.dumps(result, indent=1))
        return
    print(table(result))
    print(f"verdict: {result['verdict']}\npage: {out / experiment.name}.md")
