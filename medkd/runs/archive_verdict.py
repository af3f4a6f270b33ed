"""Whether medkd accepts a volume of a DICOM archive, told from its headers."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from medkd.imaging.dicom.pixels import decodable
from medkd.imaging.dicom.volumes import Volume


class Verdict(NamedTuple):
    """problems: why it is refused; empty if it is accepted. fix: the option that would take it, and what it does."""

    problems: tuple[str, ...]
    fix: str


def judge(volume: Volume, allow_resample: bool = False, allow_burned_in: bool = False) -> Verdict:
    """Geometry, transfer syntax, and text burned into the pixels, which may name the patient."""
    problems = [] if allow_resample and volume.resamplable else list(volume.problems)
    fixes = [f"--allow-resample: {volume.fix}"] if problems and volume.resamplable else []
    helpless = bool(problems) and not volume.resamplable
    if unknown := [name for name in volume.series.syntaxes if name in _undecodable()]:
        problems.append(f"it is stored as {', '.join(unknown)}, which cannot be decoded here (see medkd doctor)")
        helpless = True
    if volume.series.burned_in and not allow_burned_in:
        problems.append(f"its pixels may name the patient: {volume.series.burned_in}")
        fixes.append("--allow-burned-in: taken as it is")
    return Verdict(tuple(problems), "" if helpless else "; ".join(fixes))


@cache
def _undecodable() -> frozenset[str]:
    return frozenset(syntax.name for syntax in decodable() if syntax.decoder is None)
