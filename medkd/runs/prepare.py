"""From scans to a checked dataset folder: a folder of NIfTI or NRRD images and labels, or a DICOM archive.

Everything is checked before anything is written. Of a folder, every problem of every case comes in one list and nothing
is written; of an archive, of which nobody listed the cases, a case with a problem is left out and reported. Files are
written whole or not at all, dataset.yaml last: a folder without it is unfinished, and the same command continues it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from medkd.data.checks import CaseCheck, check_case
from medkd.data.dataset import Case, Dataset, name_problems, read_dataset
from medkd.errors import InputError, raise_all
from medkd.runs.archive_cases import Choice
from medkd.runs.prepare_archive import find_archive, is_archive
from medkd.runs.prepare_names import Names, open_names
from medkd.runs.prepare_report import Prepared
from medkd.runs.prepare_source import PATIENT, SHARES, Found, Refused, Source, find_cases, place
from medkd.runs.prepare_write import Progress, check_out, each, write


def prepare(
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    table: Path | None = None,
    classes: tuple[str, ...] | None = None,
    channels: tuple[str, ...] = ("image",),
    split: tuple[float, ...] | None = None,
    labelled: int | None = None,
    seed: int = 0,
    patient_pattern: str = PATIENT,
    choice: Choice | None = None,
    key: Path | None = None,
    keep_identifiers: bool = False,
    dry_run: bool = False,
    about: dict[str, str] | None = None,
    progress: Progress | None = None,
    say: Callable[[str], None] | None = None,
) -> Dataset:
    """Check scans and write the dataset folder `out`. Raises InputError that lists every problem.

    source: a folder that holds images/ (and labels/), or the images themselves with `labels` elsewhere; several
    channels are files CASE_0000.nii.gz, CASE_0001.nii.gz in the order of `channels`. Anything else (a folder without
    NIfTI and NRRD files, a zip, a DICOMDIR, a file) is a DICOM archive: `choice` says which of its series are taken,
    and `labels` are DICOM SEG, RTSTRUCT, NIfTI or NRRD files. Only unlabelled training cases may lack a label.
    table: CSV with case, patient, and where known split, labelled (yes, no) or train_order, image or image_<channel>,
    label (paths relative to `source`). Without it the patient of a file is what `patient_pattern` matches at the
    start of its name (default: all before the first _).
    split: shares of the patients for train, val and test (default 0.7, 0.1, 0.2), drawn with `seed`, where the table
    has no column split. labelled: how many training patients are labelled: the first by train_order, else drawn.
    classes: names by label value, background first; without it they are class_1 ... up to the largest label found.
    key: the file that says which case is which (default: beside `out`, NAME.private.csv): names in the dataset are
    keyed hashes, unless `keep_identifiers` or a table states them. say: is told what was left out, a line each.
    """
    source, out = Path(source), Path(out)
    continues = check_out(out)
    raise_all(name_problems("channel", channels) + (name_problems("class", classes) if classes is not None else []))
    if is_archive(source) and not table:
        _check_archive_options(channels, patient_pattern)
        found = find_archive(source, labels, classes, choice or Choice())
    else:
        if choice not in (None, Choice()):
            raise InputError(f"{source} is no DICOM archive: --modality, --series, --pick and the like have no effect")
        found = find_cases(source, labels, channels, table, patient_pattern)
    with found.opened:
        names = open_names(found, out, key, keep_identifiers, continues)
        checks = _check(found, classes, progress)
        cases = place(found, split, labelled, seed)
        _refuse(found, cases, checks)
        dataset, order = _dataset(out, cases, checks, channels, classes, names)
        for refused in found.refused:
            if say:
                say(_told(refused, names, dry_run))
        if dry_run:
            return dataset
        drawn = {"shares": split or SHARES, "seed": seed}
        decisions = {
            "patients": "from the table" if table else _patients(found, patient_pattern),
            "split": "from the table" if any(f.split for f in found.cases) else drawn,
            "labelled": "from the table" if labelled is None else _labelled(found, labelled, seed),
            "names": "private: keyed hashes" if names.key else "as in the source",
        } | (_chosen_by(choice or Choice()) if found.skips else {})
        done = Prepared(
            dataset, found, tuple(cases[i] for i in order), tuple(checks[i] for i in order), names, decisions
        )
        write(done, about or {}, progress)
    return read_dataset(out)


def _check_archive_options(channels: Sequence[str], patient_pattern: str) -> None:
    """What has a meaning for folders of files only."""
    if len(channels) > 1:
        raise InputError(f"a DICOM archive gives one channel a case, and --channels names {len(channels)}")
    if patient_pattern != PATIENT:
        raise InputError("--patient-pattern has no effect on a DICOM archive: its headers say whose a series is")


def _check(source: Source, classes: Sequence[str] | None, progress: Progress | None) -> list[CaseCheck]:
    """Every case, read to its end. Those of an archive that have a problem go from its cases to what it refused."""
    checks = list(each("check", lambda case: check_case(case.images, case.label, classes), source.cases, progress))
    if not source.skips:
        return checks
    for case, check in zip(source.cases, checks):
        if check.problems:
            reason = "; ".join(check.problems)
            identity = case.identity or case.id
            source.refused.append(Refused(case.patient, identity, case.where, reason, case.identifiers))
    kept = [(case, check) for case, check in zip(source.cases, checks) if not check.problems]
    source.cases = [case for case, _ in kept]
    if not kept:
        lines = [f"{refused.where}: {refused.reason}" for refused in source.refused]
        raise InputError(source.problems + lines or "no case is left")
    return [check for _, check in kept]


def _refuse(source: Source, placed: Sequence[Found], checks: Sequence[CaseCheck]) -> None:
    """Raise InputError with every problem of the source, of its table and of its cases."""
    for found, check in zip(placed, checks):
        problems = list(check.problems)
        if found.label is None and (found.labelled == "yes" or found.split in ("val", "test")):
            problems.append(f"no label; it is needed: split {found.split}, labelled {found.labelled}")
        if found.labelled == "yes" and check.values == (0,):
            problems.append("label is empty: every voxel is background; a labelled case needs foreground")
        name = f"{found.where}" if source.skips else f"case {found.id}"
        source.problems += [f"{name}: {problem}" for problem in problems]
    if source.problems and source.skips:
        source.problems += [f"left out {refused.where}: {refused.reason}" for refused in source.refused]
    raise_all(source.problems)


def _dataset(
    out: Path,
    cases: Sequence[Found],
    checks: Sequence[CaseCheck],
    channels: tuple[str, ...],
    classes: tuple[str, ...] | None,
    names: Names,
) -> tuple[Dataset, list[int]]:
    """The dataset to write, and which case of the source each of its cases is.

    With private names they come in the order of these, which says nothing of the source.
    """
    targets = [_target(out, *pair, len(channels), names) for pair in zip(cases, checks)]
    order = sorted(range(len(targets)), key=lambda i: targets[i].id) if names.key else list(range(len(targets)))
    largest = max(max(check.values, default=0) for check in checks)
    classes = classes or ("background", *(f"class_{k}" for k in range(1, largest + 1)))
    return Dataset(out, "segmentation", channels, classes, tuple(targets[i] for i in order)), order


def _target(out: Path, found: Found, check: CaseCheck, channels: int, names: Names) -> Case:
    name = names.case(found)
    suffixes = [""] if channels == 1 else [f"_{i:04d}" for i in range(channels)]
    images = tuple(out / "images" / f"{name}{suffix}.nii.gz" for suffix in suffixes)
    label = out / "labels" / f"{name}.nii.gz" if found.label else None
    labelled = found.labelled == "yes"
    return Case(name, names.patient(found), found.split, labelled, images, label, check.spacing, check.shape)


def _told(refused: Refused, names: Names, dry_run: bool) -> str:
    """A line for the console; only a dry run, which leaves no key to look up names in, tells paths."""
    if dry_run or names.key is None:
        return f"left out {refused.where}: {refused.reason}"
    return f"left out {names.refused(refused)}: {names.public(refused.reason, refused)}"


def _patients(source: Source, pattern: str) -> str:
    return "from the DICOM headers" if source.skips else f"from the file names, by {pattern}"


def _labelled(source: Source, labelled: int, seed: int) -> str:
    ranked = any(f.train_order for f in source.cases)
    return f"{labelled} patients, {'by train_order' if ranked else f'drawn with seed {seed}'}"


def _chosen_by(choice: Choice) -> dict[str, Any]:
    """How series were chosen; a pattern is not told, for it may quote a description that names a patient."""
    ways = [f"modality {choice.modality}"] if choice.modality else []
    ways += ["a pattern of their description"] if choice.series else []
    ways += ["a list"] if choice.pick else []
    return {
        "series": " and ".join(ways) or "the only one of each study",
        "resampling": "allowed" if choice.allow_resample else "refused",
        "text in the pixels": "allowed" if choice.allow_burned_in else "refused",
    }
