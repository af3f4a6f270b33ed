"""Which series of a DICOM archive become cases: grouped by study, chosen by the user, never silently the first."""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from medkd.data.dataset import read_table
from medkd.data.scan_files import SUFFIXES, DicomVolume
from medkd.errors import InputError, raise_all
from medkd.imaging.dicom.find import Found as Archive
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.series import Series
from medkd.imaging.dicom.volumes import Volume, plan_volumes
from medkd.runs.archive_labels import pair_labels
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


def is_archive(path: Path) -> bool:
    """Whether a source is searched for DICOM: anything but a folder with images/, or with NIfTI or NRRD files in it."""
    if not path.is_dir():
        return path.is_file()
    scans = any(p.name.endswith(SUFFIXES) and not p.name.startswith(".") for p in path.iterdir())
    return not scans and not (path / "images").is_dir()


def find_archive(path: Path, labels: Path | None, classes: Sequence[str] | None, choice: Choice) -> Source:
    """The cases of an archive with their labels. Raises InputError where nothing further can be checked."""
    with ExitStack() as stack:
        archive = stack.enter_context(find_series(path))
        source = Source(skips=True)
        images = [series for series in archive.series if series.kind == "image"]
        if not images:
            raise InputError(_nothing(path, archive))
        picks = _picks(choice.pick, images, source.problems) if choice.pick else None
        chosen = _chosen(images, picks, choice)
        if not chosen and not source.problems:
            raise InputError(_none_chosen(path, images, choice))
        seen = _Archive(path, archive, choice)
        for members in _by_study(chosen).values():
            _study(source, members, picks, seen)
        _remark(source, images, chosen, archive, seen)
        source.cases = pair_labels(source, archive, labels, classes, choice.in_order, seen.of, stack)
        raise_all(source.problems)  # before minutes are spent on reading
        source.opened = stack.pop_all()
    return source


class _Archive:
    """An archive as the user sees it: what may be taken of it, and paths of a zip as archive.zip/member."""

    def __init__(self, path: Path, archive: Archive, choice: Choice):
        self.path, self.unpacked = path, archive.unpacked and Path(archive.unpacked.name)
        self.choice, self.headless = choice, headless(archive)

    def judge(self, volume: Volume) -> Verdict:
        return judge(volume, self.headless, self.choice.allow_resample, self.choice.allow_burned_in)

    def of(self, file: Path) -> str:
        inside = self.unpacked and file.is_relative_to(self.unpacked)
        return str(self.path / file.relative_to(self.unpacked) if inside and self.unpacked else file)


def _nothing(path: Path, archive: Archive) -> str:
    others = Counter(series.modality or "unknown modality" for series in archive.series)
    if others:
        return f"{path} holds no DICOM image ({', '.join(f'{n} series {name}' for name, n in others.items())})"
    if archive.refused:
        first = archive.refused[0]
        return f"{path} holds no DICOM file that can be read ({first.file}: {first.reason})"
    if any(file.name.endswith(SUFFIXES) for file in archive.ignored):
        return (
            f"{path} holds NIfTI or NRRD files in folders below it; give the folder they lie in, or one with images/ "
            "and labels/, or say in a --table which file is which case"
        )
    if archive.ignored:
        return f"{path} holds {len(archive.ignored)} files, and none is DICOM, NIfTI (.nii, .nii.gz) or NRRD (.nrrd)"
    return f"{path} is empty: no DICOM, NIfTI or NRRD file"


def _picks(path: Path, images: Sequence[Series], problems: list[str]) -> dict[str, list[Pick]]:
    """Series UID -> the rows that name it."""
    picks: dict[str, list[Pick]] = defaultdict(list)
    present = {series.uid for series in images}
    for number, row in enumerate(read_table(path, ("series",)), 2):
        if row["series"] not in present:
            problems.append(f"line {number} of {path.name}: there is no image series with the UID {row['series']!r}")
        picks[row["series"]].append(row)
    return picks


def _chosen(images: Sequence[Series], picks: dict[str, list[Pick]] | None, choice: Choice) -> list[Series]:
    try:
        pattern = re.compile(choice.series or "", re.IGNORECASE)
    except re.error as error:
        raise InputError(f"--series is {choice.series!r}, not a regular expression: {error}") from None
    modality = choice.modality.upper() if choice.modality else None
    return [
        series
        for series in images
        if (picks is None or series.uid in picks)
        and modality in (None, series.modality.upper())
        and pattern.search(series.description)
    ]


def _none_chosen(path: Path, images: Sequence[Series], choice: Choice) -> str:
    wanted = [f"modality {choice.modality}"] if choice.modality else []
    wanted += [f"a description that matches {choice.series!r}"] if choice.series else []
    wanted += [f"a UID of {choice.pick}"] if choice.pick else []
    there = Counter(f"{series.modality or 'no modality'} {series.description!r}" for series in images)
    shown = ", ".join(f"{name} ({n})" for name, n in there.most_common(12))
    more = f" and {len(there) - 12} more" if len(there) > 12 else ""
    return f"no series of {path} has {' and '.join(wanted)}; there are {shown}{more}"


def _by_study(chosen: Sequence[Series]) -> dict[tuple[str, str], list[Series]]:
    studies: dict[tuple[str, str], list[Series]] = defaultdict(list)
    for series in chosen:
        studies[series.patient, series.study_uid].append(series)
    return studies


def _study(source: Source, members: list[Series], picks: dict[str, list[Pick]] | None, seen: _Archive) -> None:
    """The cases of one study: what was picked, or its only series; several are an error that lists them all."""
    planned = {series: plan_volumes(series) for series in members}
    if picks is None and len(members) > 1:
        lines = [_line(series, volume, seen) for series, volumes in planned.items() for volume in volumes]
        source.problems.append(_ask(f"{len(members)} series of the study", members[0], seen, lines))
        return
    for series, volumes in planned.items():
        for row in picks[series.uid] if picks is not None else [{}]:
            _series(source, series, volumes, row, seen)


def _series(source: Source, series: Series, volumes: Sequence[Volume], row: Pick, seen: _Archive) -> None:
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


def _ask(what: str, series: Series, seen: _Archive, lines: Sequence[str]) -> str:
    listed = "".join(f"\n    {line}" for line in lines)
    return (
        f"{what} in {seen.of(series.files[0].parent)} are candidates; choose with --modality, --series PATTERN, or "
        f"--pick FILE.csv (columns series and, of several volumes, volume):{listed}"
    )


def _line(series: Series, volume: Volume, seen: _Archive) -> str:
    verdict = seen.judge(volume)
    number = "" if series.number is None else f"{series.number}, "
    size = " x ".join(map(str, volume.shape))
    name = f", volume {volume.name!r}" if volume.name else ""
    state = f"refused: {verdict.problems[0]}" if verdict.problems else "accepted"
    return f"series {number}{series.modality} {series.description!r}{name}, {size}, {state} (UID {series.uid})"


def _case(series: Series, volume: Volume, row: Pick, seen: _Archive) -> Found:
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
        where=seen.of(series.files[0].parent),
        modality=series.modality,
        identifiers=identifiers(series, patient),
    )


def _refused(series: Series, verdict: Verdict, row: Pick, seen: _Archive) -> Refused:
    patient = _patient(series, row)
    fix = f" (with {verdict.fix})" if verdict.fix else ""
    reason = "; ".join(verdict.problems) + fix
    folder = seen.of(series.files[0].parent)
    return Refused(patient, f"{series.study_uid} {series.uid}", folder, reason, identifiers(series, patient))


def _patient(series: Series, row: Pick) -> str:
    return row.get("patient") or series.patient or f"study {series.study_uid}"


def safe_name(text: str) -> str:
    """A text as a part of a file name."""
    return re.sub(r"[^\w.-]+", "-", text).strip("-._") or "unnamed"


def _remark(
    source: Source, images: Sequence[Series], chosen: Sequence[Series], archive: Archive, seen: _Archive
) -> None:
    """What is said of the archive as a whole, and of files that could not be read."""
    if len(chosen) < len(images):
        studies, kept = _by_study(images), _by_study(chosen)
        source.remarks.append(
            f"image series that were not chosen: {len(images) - len(chosen)} of {len(images)}; "
            f"studies without a chosen series: {len(studies) - len(kept)} of {len(studies)}"
        )
    if nameless := len({series.study_uid for series in chosen if not series.patient}):
        source.warnings.append(
            f"studies that state no patient: {nameless}; each counts as a patient of its own, so that two studies of "
            "one patient may come into different splits: a column patient of --pick says whose they are"
        )
    source.refused += [Refused("", seen.of(r.file), seen.of(r.file), r.reason) for r in archive.refused]
    folders = {seen.of(refused.file.parent) for refused in archive.refused}
    if troubled := sum(1 for series in chosen if {seen.of(file.parent) for file in series.files} & folders):
        source.warnings.append(
            f"chosen series in a folder with files that cannot be read: {troubled}; if such a file was their first or "
            "last slice, nothing else shows it"
        )
    if archive.ignored:
        source.remarks.append(f"files of the source that are not DICOM: {len(archive.ignored)}")
