"""medkd reproduce: the honest experiment behind a claim."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from medkd.errors import InputError

if TYPE_CHECKING:
    from medkd.claims.reproduce import Claim


def reproduce(
    name: Annotated[str | None, typer.Argument(help="the claim, for example bcp")] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            help="bcp: a dataset folder of ACDC or of the hippocampus task, else generated patients; "
            "sfod-blood-cells: the folder that holds bccd/ and raabin/; distilled-segmentation: a dataset folder of "
            "the hippocampus task"
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="how many seeds; the claim's own number if not given")
    ] = None,
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
    from medkd.claims.reproduce import CLAIMS

    if list_names:
        rows = [{"name": key, "claim": claim.words} for key, claim in CLAIMS.items()]
        print(json.dumps(rows, indent=1) if as_json else "\n".join(f"{r['name']}: {r['claim']}" for r in rows))
        return
    if name not in CLAIMS:
        raise InputError(f"no claim {name!r}; allowed: {', '.join(CLAIMS)} (medkd reproduce --list)")
    claim = CLAIMS[name]
    if claim.small and data is not None:
        raise InputError(f"{name} makes its own data: leave out --data {data}")
    result, text = (
        _small(name, claim, seeds, out, page_only) if claim.small else _large(claim, data, seeds, out, page_only)
    )
    print(json.dumps(result, indent=1) if as_json else text)


def _small(name: str, claim: Claim, seeds: int | None, out: Path, page_only: bool) -> tuple[dict[str, Any], str]:
    from rich.console import Console

    from medkd.claims.small import run_missing, summarise
    from medkd.claims.small_page import statements, table, write_pages

    assert claim.small
    experiment = claim.small()
    lines = run_missing(name, experiment, seeds or experiment.seeds, out, Console(stderr=True), page_only)
    write_pages(out)
    result = summarise(name, claim.words, experiment, lines)
    text = f"{table(result, experiment)}\n\n{statements(result)}\n\nverdict: {result['verdict']}"
    return result, f"{text}\npage: {out / 'claims.md'}"


def _large(
    claim: Claim, data: Path | None, seeds: int | None, out: Path, page_only: bool
) -> tuple[dict[str, Any], str]:
    from rich.console import Console

    from medkd.claims.reproduce import reproduce as run

    assert claim.large
    experiment = claim.large(data, seeds or 3)
    lines = run(experiment, out, page_only=page_only, console=Console(stderr=True))
    result, text = experiment.summary(lines)
    return result, f"{text}\npage: {out / experiment.name}.md"
