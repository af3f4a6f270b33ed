"""medkd quickstart: the main job on a generated cohort, in minutes, without a download."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def quickstart(
    out: Annotated[Path, typer.Option(help="the folder to write")] = Path("medkd-quickstart"),
    seed: Annotated[int, typer.Option(help="of the cohort and of training")] = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="delete a quickstart that is there")] = False,
) -> None:
    """Generate patients, prepare them, train with 2 labelled ones (alone, and with BCP), evaluate, predict, report."""
    from rich.console import Console

    from medkd.runs.quickstart import quickstart as run

    summary = run(out, seed=seed, overwrite=overwrite, console=Console(stderr=True))
    dice = summary["dice"]
    print(f"test Dice with 2 labelled patients: labelled only {dice['labelled_only']:.3f}, BCP {dice['bcp']:.3f}")
    print(f"{summary['seconds']:.0f} s; look at {out / 'report.html'}")
