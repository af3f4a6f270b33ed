"""The one error a user's input can cause. The command line prints it and exits with code 2, without a traceback."""

from __future__ import annotations

from collections.abc import Iterable


class InputError(Exception):
    """The input was wrong: says which value, what is allowed, and the fix. Holds every problem found, one a line."""

    def __init__(self, problems: str | Iterable[str]):
        self.problems = [problems] if isinstance(problems, str) else list(problems)
        super().__init__("\n".join(self.problems))


def raise_all(problems: list[str]) -> None:
    """Raise one InputError that lists every problem; return if there is none."""
    if problems:
        raise InputError(problems)
