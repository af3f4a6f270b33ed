"""Which series of a DICOM archive become cases: grouped by study, chosen by the user, never silently the first."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from medkd.data.dataset import read_table
from medkd.data.scan_files import SUFFIXES
from medkd.errors import InputError, raise_all
from medkd.imaging.dicom.find import Found as Archive
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.series import Series
from medkd.runs.archive_cases import Choice, Pick, SeenArchive, add_study
from medkd.runs.archive_labels import pair_labels
from medkd.runs.prepare_source import Refused, Source


def is_archive(path: Path) -> bool:
    """Whether a source is searched for DICOM: not a folder with NIfTI or NRRD files, in it or in its images/."""
    if not path.is_dir():
        return path.is_file()
    folders = [folder for folder in (path, path / "images") if folder.is_dir()]
    return not any(
        p.name.endswith(SUFFIXES) and not p.name.startswith(".") for folder in folders for p in folder.iterdir()
    )


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
        seen = SeenArchive(path, archive, choice)
        for members in _by_study(chosen).values():
            add_study(source, members, picks, seen)
        _remark(source, images, chosen, seen)
        source.cases = pair_labels(source, seen, labels, classes, stack)
        raise_all(source.problems)  # before minutes are spent on reading
        source.opened = stack.pop_all()
    return source


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


def _remark(source: Source, images: Sequence[Series], chosen: Sequence[Series], seen: SeenArchive) -> None:
    """What is said of the archive as a whole, and of files that could not be read."""
    archive = seen.archive
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
