"""Which cases a source folder holds, what its table says of them, and which patient goes where."""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

from medkd.data.dataset import inside, read_table, split_problems
from medkd.data.scan_files import SUFFIXES, ScanFile, VolumeFile
from medkd.data.splits import choose_labelled, share_problems, shuffled, split_patients
from medkd.errors import InputError, raise_all

YES, NO = ("yes", "true", "1"), ("no", "false", "0")
SHARES = (0.7, 0.1, 0.2)
PATIENT = r"([^_]+)"


@dataclass(frozen=True)
class Found:
    """One case in the source: its files, and what the table says of it ("" where it does not say).

    id: its name where names are kept, and in messages. identity: what its private name is made from (`id` if empty).
    where: the path of its first file. identifiers: words that tell the patient, to be taken out of what is written.
    """

    id: str
    patient: str
    images: tuple[ScanFile, ...]
    label: ScanFile | None
    split: str = ""
    labelled: str = ""
    train_order: str = ""
    identity: str = ""
    where: str = ""
    modality: str = ""
    identifiers: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Refused:
    """A series or file of an archive that is left out, and why. patient: "" where the file does not say."""

    patient: str
    identity: str
    where: str
    reason: str
    identifiers: frozenset[str] = frozenset()


@dataclass
class Source:
    """The cases, everything wrong with them so far, and the names of files that belong to no case.

    named: whether a table states the names of the cases, which are then kept. skips: whether a case with a problem is
    left out, instead of refusing the whole source: so with an archive, of which nobody listed the cases. refused:
    what was left out so. warnings, remarks: on the whole source, without identifiers. opened: closed at the end.
    """

    cases: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    unused: dict[str, list[str]] = field(default_factory=dict)
    named: bool = False
    skips: bool = False
    refused: list[Refused] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)
    opened: ExitStack = field(default_factory=ExitStack)


def find_cases(
    folder: Path, labels: Path | None, channels: Sequence[str], table: Path | None, pattern: str = PATIENT
) -> Source:
    """The cases of a source folder. Raises InputError where nothing further can be checked (no folder, no table)."""
    if not folder.is_dir():
        raise InputError(f"no folder at {folder}")
    if labels and not labels.is_dir():
        raise InputError(f"no folder of labels at {labels}")
    source = Source(named=table is not None)
    images = _images(folder / "images" if (folder / "images").is_dir() else folder, len(channels), source.problems)
    label_files = _files(labels or folder / "labels", "label", source.problems)
    if table:
        _from_table(source, folder, images, label_files, channels, table)
    else:
        _from_names(source, images, label_files, pattern)
    for found in source.cases:
        if not found.id or found.id.startswith(".") or re.search(r"[/\\\x00-\x1f]", found.id):
            source.problems.append(f"case {found.id!r}: the id names files: not empty, no / or \\, no . in front")
    if not source.cases and not source.problems:
        raise InputError(f"no NIfTI image (.nii, .nii.gz) and no NRRD image (.nrrd) in {folder}")
    used = {file for found in source.cases for file in (*found.images, found.label)}
    source.unused = {
        "images": [name for name, files in images.items() if not used.intersection(files)],
        "labels": [name for name, file in label_files.items() if file not in used],
    }
    return source


def place(source: Source, shares: tuple[float, ...] | None, labelled: int | None, seed: int) -> list[Found]:
    """The cases with a split and with labelled yes or no; what prevents that is added to `source.problems`."""
    found, problems = source.cases, source.problems
    complete: dict[str, bool] = {}
    for f in found:
        complete[f.patient] = complete.get(f.patient, True) and f.label is not None
    order = _train_order(found, problems)
    ranked = sorted(order, key=lambda p: order[p])
    marked = {f.patient for f in found if f.labelled.lower() in YES} if labelled is None else set()
    given = any(f.split for f in found)
    wrong = split_problems([(f.id, f.patient, f.split) for f in found]) if given else []
    problems += wrong
    try:
        if labelled is None and not any(f.labelled for f in found):
            raise InputError("which training patients are labelled? give --labelled K, or a column labelled")
        if given and shares:
            raise InputError("the table has a column split, so --split would have no effect; leave one of them out")
        if not given:
            raise_all(share_problems(shares or SHARES))
            reserved = marked or set(ranked[: labelled or 0])
            splits = split_patients(complete, shares or SHARES, labelled or 0, seed, reserved)
            found = [replace(f, split=splits[f.patient]) for f in found]
            problems += split_problems([(f.id, f.patient, f.split) for f in found])  # a case listed twice
        if labelled is not None:
            train = {f.patient for f in found if f.split == "train"}
            drawn = shuffled((p for p in train if complete[p]), seed, "labelled")
            chosen = choose_labelled([p for p in ranked if p in train] if ranked else drawn, labelled)
            found = [replace(f, labelled="yes" if f.patient in chosen else "no") for f in found]
        elif not wrong and not any(f.split == "train" and f.labelled.lower() in YES for f in found):
            raise InputError("the column labelled marks no training case; mark some, or give --labelled K")
    except InputError as error:
        problems += error.problems
        if len(complete) == 1 and len(found) > 1 and not given:
            problems.append(
                f"all {len(found)} cases belong to patient {found[0].patient}; by default a patient is what stands "
                "before the first _ of a file name: give --patient-pattern, '(.+)' where every file is a patient"
            )
    return [replace(f, labelled="yes" if f.labelled.lower() in YES else "no") for f in found]


def _train_order(found: list[Found], problems: list[str]) -> dict[str, int]:
    """Patient -> the rank in which it is labelled, where the table states one."""
    order: dict[str, int] = {}
    for f in found:
        if f.train_order and not f.train_order.isdecimal():
            problems.append(f"case {f.id}: train_order is {f.train_order!r}; a whole number, or empty, is needed")
        elif f.train_order and order.setdefault(f.patient, int(f.train_order)) != int(f.train_order):
            both = f"{order[f.patient]} and {f.train_order}"
            problems.append(f"patient {f.patient} has the train_order {both}; one is needed")
    return order


def _from_names(
    source: Source, images: dict[str, tuple[VolumeFile, ...]], labels: dict[str, VolumeFile], pattern: str
) -> None:
    try:
        patient = re.compile(pattern)
    except re.error as error:
        raise InputError(f"patient pattern is {pattern!r}, not a regular expression: {error}") from None
    if patient.groups != 1:
        raise InputError(f"patient pattern is {pattern!r}; exactly one group (...) is needed, which is the patient")
    for name, files in images.items():
        match = patient.match(name)
        if not match or not match[1]:
            source.problems.append(f"case {name}: the name does not match the patient pattern {pattern!r}")
        patient_name = match[1] if match and match[1] else name
        source.cases.append(Found(name, patient_name, files, labels.get(name), where=str(files[0].path)))


def _from_table(
    source: Source,
    folder: Path,
    images: dict[str, tuple[VolumeFile, ...]],
    labels: dict[str, VolumeFile],
    channels: Sequence[str],
    table: Path,
) -> None:
    """Cases by row. Files are found by case name, or stated in columns image (image_<channel>) and label."""
    columns = ["image"] if len(channels) == 1 else []
    columns += [f"image_{c}" for c in channels]
    for row in read_table(table, ("case", "patient")):
        name, wrong = row["case"], []
        stated: dict[str, VolumeFile] = {}
        for column in (*columns, "label"):
            path = inside(folder, row[column]) if row.get(column) else None
            if path and path.is_file():
                stated[column] = VolumeFile(path)
            elif path:
                wrong.append(f"{column} is {row[column]!r}, and no such file is in the source")
            elif row.get(column):
                wrong.append(f"{column} is {row[column]!r}, outside the source; write a path relative to its folder")
        files = tuple(stated[c] for c in columns if c in stated)
        if not any(row.get(c) for c in columns):
            files = images.get(name, ())
        if len(files) != len(channels) and not wrong:
            wrong.append(f"{len(files)} images were found; {len(channels)} are needed ({', '.join(channels)})")
        if not row["patient"]:
            wrong.append("patient is empty")
        if row.get("labelled", "").lower() not in (*YES, *NO, ""):
            wrong.append(f"labelled is {row['labelled']!r}; allowed: yes, no")
        source.problems += [f"case {name}: {w}" for w in wrong]
        label = stated.get("label", None if row.get("label") else labels.get(name))
        split, labelled, order = (row.get(column, "") for column in ("split", "labelled", "train_order"))
        source.cases.append(Found(name, row["patient"], files, label, split, labelled, order))


def _images(folder: Path, channels: int, problems: list[str]) -> dict[str, tuple[VolumeFile, ...]]:
    """Case -> its images: one file CASE, or CASE_0000, CASE_0001 ... for several channels."""
    files = _files(folder, "image", problems)
    numbered: dict[str, list[str]] = {}
    for name in files:
        numbered.setdefault(re.sub(r"_\d{4}$", "", name), []).append(name)
    if channels == 1 and not all(name.endswith("_0000") for name in files):
        return {name: (file,) for name, file in files.items()}
    groups = {}
    for case, names in numbered.items():
        if names == [f"{case}_{i:04d}" for i in range(channels)]:
            groups[case] = tuple(files[name] for name in names)
        else:
            wanted = f"{case}_0000 to {case}_{channels - 1:04d}"
            problems.append(f"case {case}: {channels} channels need the files {wanted}; there are {', '.join(names)}")
    return groups


def _files(folder: Path, kind: str, problems: list[str]) -> dict[str, VolumeFile]:
    """Name without suffix -> NIfTI or NRRD file, sorted; hidden files do not count."""
    if not folder.is_dir():
        return {}
    files: dict[str, VolumeFile] = {}
    for path in sorted(folder.iterdir()):
        if path.name.startswith(".") or not path.name.endswith(SUFFIXES):
            continue
        name = stem(path)
        if name in files:
            problems.append(f"case {name}: there are both {files[name].name} and {path.name} as {kind}; keep one")
        files[name] = VolumeFile(path)
    return files


def stem(path: Path) -> str:
    """The name of a NIfTI or NRRD file without its suffix."""
    return path.name[: -len(next(suffix for suffix in SUFFIXES if path.name.endswith(suffix)))]
