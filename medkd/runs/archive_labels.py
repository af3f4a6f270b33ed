"""Which label belongs to which case of an archive: by the series it references, a NIfTI or NRRD file by its name."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from medkd.data.dicom_label import DicomLabel, references, structures
from medkd.data.scan_files import SUFFIXES, DicomVolume, ScanFile, VolumeFile
from medkd.errors import InputError
from medkd.imaging.dicom.find import Found as Archive
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.series import Series
from medkd.runs.archive_cases import SeenArchive
from medkd.runs.identifiers import identifiers, path_words
from medkd.runs.prepare_source import Found, Refused, Source, stem

Drawn = tuple[Series, int]
"""A file of a series of segmentations or structure sets."""
NO_CASE = "this label was drawn on a series that was not chosen, or was refused"


def pair_labels(
    source: Source, seen: SeenArchive, labels: Path | None, classes: Sequence[str] | None, stack: ExitStack
) -> list[Found]:
    """The cases, each with its label, if it has one.

    labels: a file, folder or zip; without it the DICOM SEG and RTSTRUCT files of the archive itself are used. One that
    was given and fits no series of the archive is a problem; one that fits a series which is no case, and one of the
    archive, is left out with its reason. Raises InputError if there are no labels where they should be.
    """
    cases = source.cases
    drawn, files = _given(source, labels, stack) if labels else (_drawn(seen.archive), [])
    uids = [series.uid for series in map(_series_of, cases)]
    fitting: dict[int, list[Drawn | VolumeFile]] = defaultdict(list)
    names: set[str] = set()
    for series, number in drawn:
        referenced = references(series, number)
        matches = [index for index, uid in enumerate(uids) if uid in referenced]
        if not matches:
            _misfit(source, seen, (series, number), referenced, given=labels is not None)
        for index in matches:
            fitting[index].append((series, number))
            names |= set(structures(series, number))
    for file in files:
        name = stem(file.path)
        matches = [index for index, case in enumerate(cases) if name in _names(_series_of(case), case.patient)]
        if len(matches) == 1:
            fitting[matches[0]].append(file)
        elif any(name in _names(series, series.patient) for series in seen.archive.series) and not matches:
            source.refused.append(Refused("", str(file.path), str(file.path), NO_CASE))
        else:
            source.problems.append(
                f"label {file.name} is named like {len(matches)} of {len(cases)} cases; name it like the folder of "
                "its series, like its patient id if that has one case, or like its series UID"
            )
    if names and classes is None:
        source.problems.append(
            f"the labels show the structures {', '.join(map(repr, sorted(names)))}; say which are the classes, "
            f"background first: --classes background,{sorted(names)[0]}"
        )
    in_order = seen.choice.in_order
    return [_with(source, case, fitting[index], classes or (), in_order) for index, case in enumerate(cases)]


def _drawn(archive: Archive) -> list[Drawn]:
    kinds = ("segmentation", "structures")
    return [(series, n) for series in archive.series if series.kind in kinds for n in range(len(series.files))]


def _given(source: Source, labels: Path, stack: ExitStack) -> tuple[list[Drawn], list[VolumeFile]]:
    if not labels.exists():
        raise InputError(f"no file or folder of labels at {labels}")
    if labels.name.endswith(SUFFIXES):
        return [], [VolumeFile(labels)]
    found = stack.enter_context(find_series(labels))
    drawn = _drawn(found)
    files = [VolumeFile(path) for path in found.ignored if path.name.endswith(SUFFIXES)]
    if files and found.unpacked:
        raise InputError(f"{labels} holds NIfTI or NRRD files; unpack it and give the folder")
    source.refused += [Refused("", str(one.file), str(one.file), one.reason) for one in found.refused]
    if not drawn and not files:
        broken = "".join(f"; {one.file.name}: {one.reason}" for one in found.refused)
        raise InputError(
            f"no label in {labels}: DICOM SEG, RTSTRUCT, NIfTI (.nii, .nii.gz) or NRRD (.nrrd) is needed{broken}"
        )
    return drawn, files


def _misfit(source: Source, seen: SeenArchive, drawn: Drawn, referenced: Sequence[str], given: bool) -> None:
    series, number = drawn
    file = series.files[number]
    reason = NO_CASE if referenced else "this label does not say on which series it was drawn"
    there = {one.uid for one in seen.archive.series if one.kind == "image"}
    if given and not there.intersection(referenced):
        if referenced:
            reason = f"this label was drawn on a series that the archive does not hold ({', '.join(referenced)})"
        source.problems.append(f"{file}: {reason}")
    else:
        identity = f"{series.study_uid} {series.uid} {number}"
        telling = identifiers(series, series.patient)
        source.refused.append(Refused(series.patient, identity, seen.of(file), reason, telling))


def _series_of(case: Found) -> Series:
    image = case.images[0]
    assert isinstance(image, DicomVolume)
    return image.volume.series


def _names(series: Series, patient: str) -> tuple[str, ...]:
    """How a NIfTI or NRRD label of a series may be called."""
    return patient, series.uid, series.files[0].parent.name


def _with(
    source: Source, case: Found, fitting: Sequence[Drawn | VolumeFile], classes: Sequence[str], in_order: bool
) -> Found:
    if not fitting:
        return case
    if len(fitting) > 1:
        paths = [str(f.path if isinstance(f, VolumeFile) else f[0].files[f[1]]) for f in fitting]
        source.problems.append(
            f"{case.where}: {len(fitting)} labels were drawn on this series, and one is needed; give the right ones "
            f"as --labels: {', '.join(paths)}"
        )
        return case
    label: ScanFile
    if isinstance(one := fitting[0], VolumeFile):
        label, telling = one, path_words(one.path)
    else:
        image = case.images[0]
        assert isinstance(image, DicomVolume)
        label = DicomLabel(*one, image.volume, tuple(classes), in_order)
        telling = identifiers(one[0], case.patient)
    return replace(case, label=label, identifiers=case.identifiers | telling)
