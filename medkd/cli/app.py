"""The command `medkd`.

Exit codes: 0 done, 1 the run failed, 2 the input was wrong (one readable message), 3 stopped on request and saved.
"""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import TextIO

os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")

import typer

from medkd.cli.config import config
from medkd.cli.doctor import doctor
from medkd.cli.evaluate import evaluate
from medkd.cli.info import info
from medkd.cli.methods import methods
from medkd.cli.predict import predict
from medkd.cli.prepare import prepare
from medkd.cli.preview import preview
from medkd.cli.quickstart import quickstart
from medkd.cli.reproduce import reproduce
from medkd.cli.train import train
from medkd.errors import InputError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Semi-supervised and source-free adaptation for medical imaging.",
)
for verb in (quickstart, prepare, train, evaluate, predict, reproduce, methods, info, preview, doctor):
    app.command()(verb)
app.add_typer(config, name="config")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit."""
    sys.exit(run(arguments))


def run(arguments: list[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    warnings.showwarning = say_warning
    try:
        app(args=arguments)
    except SystemExit as done:  # typer ends every command this way: 0, 1 when interrupted, 2 for wrong usage
        return done.code if isinstance(done.code, int) else 0
    except InputError as error:
        lines = error.problems
        print(f"error: {lines[0]}" if len(lines) == 1 else f"{len(lines)} errors:", file=sys.stderr)
        if len(lines) > 1:
            print("\n".join(f"- {line}" for line in lines), file=sys.stderr)
        return 2
    except RuntimeError as error:
        from medkd.engine.recovery import TrainingError
        from medkd.engine.signals import Stopped

        if isinstance(error, Stopped):
            print(error, file=sys.stderr)
            return 3
        if not isinstance(error, TrainingError):
            raise
        print(f"failed: {error}", file=sys.stderr)
        return 1
    return 0


def say_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Warnings of medkd are for the user: a line on stderr without the place in the code. Others as Python shows
    them."""
    ours = Path(__file__).parents[1] in Path(filename).parents
    text = f"warning: {message}\n" if ours else warnings.formatwarning(message, category, filename, lineno, line)
    print(text, end="", file=file or sys.stderr)
