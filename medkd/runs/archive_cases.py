"""From the series of a study to cases: what was chosen, or the only one; several are an error that lists them."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medkd.data.scan_files import DicomVolume
from medkd.imaging.dicom.find import Found as Archive
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.volumes import Volume, plan_volumes
from medkd.runs.archive_verdict import Verdict, headless, judge
from medkd.runs.identifiers import identifiers
from medkd.runs.prepare_source import Found, Refused, Source


@dataclass(frozen=True)
class Choice:
    """Which series of an archive are taken, and what may be done to them.

    modality: CT, MR, ... series: a regular expression that is searched in the series description, in any case.
    pick: CSV with the column series (its UID, which `medkd info --json` prints) and where wanted volume (the name of
    one of several volumes of a series), patient, split, labelled, train_order. allow_resample: uneven or tilted slices
    are resampled to a regular grid. allow_burned_in: images whose pixels may show text are taken. in_order: where
    structures overlap, the class that is named later lies on top.
    """

    modality: str | None = None
    series: str | None = None
    pick: Path | None = None
    allow_resample: bool = False
    allow_burned_in: bool = False
    in_order: bool = False


Pick = dict[str, str]


class SeenArchive:
    """An archive as the user sees it: what may be taken of it, and paths of a zip as archive.zip/member."""

    def __init__(self, path: Path, archive: Archive, choice: Choice):
        self.path, self.archive, self.choice = path, archive, choice
        self.unpacked = archive.unpacked and Path(archive.unpacked.name)
        self.headless = headless(archive)
        folders = Counter(folder for series in archive.series for folder in {file.parent for file in series.files})
        self.shared = {folder for folder, count in folders.items() if count > 1}

    def judge(self, volume: Volume) -> Verdict:
        return judge(volume, self.headless, self.choice.allow_resample, self.choice.allow_burned_in)

    def place(self, series: Series) -> str:
        """The folder of a series, or its first file where others lie there too."""
        file = series.files[0]
        return self.of(file if file.parent in self.shared else file.parent)

    def of(self, file: Path) -> str:
        inside = self.unpacked and file.is_relative_to(self.unpacked)
        return str(self.path / file.relative_to(self.unpacked) if inside and self.unpacked else file)


def add_study(source: Source, members: list[Series], picks: dict[str, list[Pick]] | None, seen: SeenArchive) -> None:
    """The cases of one study: what was picked, or its only series; several are an error that lists them all."""
    planned = {series: plan_volumes(series) for series in members}
    if picks is None and len(members) > 1:
        lines = [_line(series, volume, seen) for series, volumes in planned.items() for volume in volumes]
        source.problems.append(_ask(f"{len(members)} series of the study", members[0], seen, lines))
        return
    for series, volumes in planned.items():
        for row in picks[series.uid] if picks is not None else [{}]:
            _series(source, series, volumes, row, seen)


def _series(source: Source, series: Series, volumes: Sequence[Volume], row: Pick, seen: SeenArchive) -> None:
    named = [v for v in volumes if v.name == row["volume"]] if row.get("volume") else list(volumes)
    if not named:
        names = ", ".join(repr(volume.name) for volume in volumes)
        source.problems.append(f"series {series.uid} has no volume {row['volume']!r}; there are {names}")
        return
    verdicts = [seen.judge(volume) for volume in named]
    if all(verdict.problems for verdict in verdicts):
        source.refused.append(_refused(series, verdicts[0], row, seen))
    elif len(named) > 1:
        lines = [_line(series, volume, seen) for volume in named]
        source.problems.append(_ask(f"{len(named)} volumes of the series", series, seen, lines))
    else:
        source.cases.append(_case(series, named[0], row, seen))


def _ask(what: str, series: Series, seen: SeenArchive, lines: Sequence[str]) -> str:
    listed = "".join(f"\n    {line}" for line in lines)
    return (
        f"{what} in {seen.of(series.files[0].parent)} are candidates; choose with --modality, --series PATTERN, or "
        f"--pick FILE.csv (columns series and, of several volumes, volume):{listed}"
    )


def _line(series: Series, volume: Volume, seen: SeenArchive) -> str:
    verdict = seen.judge(volume)
    number = "" if series.number is None else f"{series.number}, "
    size = " x ".join(map(str, volume.shape))
    name = f", volume {volume.name!r}" if volume.name else ""
    state = f"refused: {verdict.problems[0]}" if verdict.problems else "accepted"
    return f"series {number}{series.modality} {series.description!r}{name}, {size}, {state} (UID {series.uid})"


def _case(series: Series, volume: Volume, row: Pick, seen: SeenArchive) -> Found:
    patient = _patient(series, row)
    identity = f"{series.study_uid} {series.uid} {volume.name}".strip()
    return Found(
        id=f"{safe_name(patient)}_{hashlib.sha256(identity.encode()).hexdigest()[:6]}",
        patient=patient,
        images=(DicomVolume(volume, seen.choice.allow_resample),),
        label=None,
        split=row.get("split", ""),
        labelled=row.get("labelled", ""),
        train_order=row.get("train_order", ""),
        identity=identity,
        where=seen.place(series),
        modality=series.modality,
        identifiers=identifiers(series, patient),
    )


def _refused(series: Series, verdict: Verdict, row: Pick, seen: SeenArchive) -> Refused:
    patient = _patient(series, row)
    fix = f" (with {verdict.fix})" if verdict.fix else ""
    reason = "; ".join(verdict.problems) + fix
    identity = f"{series.study_uid} {series.uid} {row.get('volume', '')}".strip()
    return Refused(patient, identity, seen.place(series), reason, identifiers(series, patient))


def _patient(series: Series, row: Pick) -> str:
    return row.get("patient") or series.patient or f"study {series.study_uid}"


def safe_name(text: str) -> str:
    """A text as a part of a file name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-._") or "unnamed"
