"""Whether medkd accepts a volume of a DICOM archive, told from its headers."""

from __future__ import annotations

from collections import Counter
from functools import cache
from typing import NamedTuple

from medkd.imaging.dicom.find import Found
from medkd.imaging.dicom.pixels import decodable
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.volumes import Volume


class Verdict(NamedTuple):
    """problems: why it is refused; empty if it is accepted. fix: the option that would take it, and what it does."""

    problems: tuple[str, ...]
    fix: str


Headless = Counter[tuple[str, str, str, str]]


def headless(archive: Found) -> Headless:
    """How many files of each series (patient, study, series, modality) hold no image, though their modality should."""
    count: Headless = Counter()
    for series in archive.series:
        if series.kind == "other":
            count[_key(series)] += len(series.files)
    return count


def judge(volume: Volume, cut_short: Headless, allow_resample: bool = False, allow_burned_in: bool = False) -> Verdict:
    """Geometry, transfer syntax, files without pixels, and text burned into the pixels, which may name the patient."""
    problems = [] if allow_resample and volume.resamplable else list(volume.problems)
    fixes = [f"--allow-resample: {volume.fix}"] if problems and volume.resamplable else []
    helpless = bool(problems) and not volume.resamplable
    if missing := cut_short[_key(volume.series)]:
        problems.append(f"{missing} files of its series hold no pixels: were they cut short?")
        helpless = True
    if unknown := [name for name in volume.series.syntaxes if name in _undecodable()]:
        problems.append(f"it is stored as {', '.join(unknown)}, which cannot be decoded here (see medkd doctor)")
        helpless = True
    if volume.series.burned_in and not allow_burned_in:
        problems.append(f"its pixels may name the patient: {volume.series.burned_in}")
        fixes.append("--allow-burned-in: taken as it is")
    return Verdict(tuple(problems), "" if helpless else "; ".join(fixes))


def _key(series: Series) -> tuple[str, str, str, str]:
    return series.patient, series.study_uid, series.uid, series.modality


@cache
def _undecodable() -> frozenset[str]:
    return frozenset(syntax.name for syntax in decodable() if syntax.decoder is None)
