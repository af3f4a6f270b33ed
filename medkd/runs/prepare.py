"""From a folder of NIfTI images and labels to a checked dataset folder.

Everything is checked before anything is written, and every problem of every case comes in one list. Files are written
whole or not at all, dataset.yaml last: a folder without it is unfinished, and the same command continues it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from medkd.data.checks import CaseCheck, check_case
from medkd.data.dataset import SPLITS, Case, Dataset, name_problems, read_dataset, write_dataset, write_whole
from medkd.errors import InputError, raise_all
from medkd.imaging.nifti import read_nifti, write_nifti
from medkd.runs.prepare_source import PATIENT, SHARES, Found, Source, find_cases, place

WORKERS = 4
PROGRESS = ".prepare.json"
OURS = {PROGRESS, "images", "labels", "report.json", "cases.csv"}
"""What an unfinished dataset folder may hold, beside the temporary files of these."""
Progress = Callable[[str, int, int], None]
A = TypeVar("A")
B = TypeVar("B")


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
    dry_run: bool = False,
    about: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Check a folder of scans and write the dataset folder `out`. Raises InputError that lists every problem.

    source: holds images/ (and labels/), or the images themselves with `labels` elsewhere. Several channels: files
    CASE_0000.nii.gz, CASE_0001.nii.gz in the order of `channels`. Only unlabelled training cases may lack a label.
    table: CSV with case, patient, and where known split, labelled (yes, no) or train_order, image or image_<channel>,
    label (paths relative to `source`). Without it the patient of a file is what `patient_pattern` matches at the
    start of its name (default: all before the first _).
    split: shares of the patients for train, val and test (default 0.7, 0.1, 0.2), drawn with `seed`, where the table
    has no column split. labelled: how many training patients are labelled: the first by train_order, else drawn.
    classes: names by label value, background first; without it they are class_1 ... up to the largest label found.
    """
    source, out = Path(source), Path(out)
    _check_out(out)
    raise_all(name_problems("channel", channels) + (name_problems("class", classes) if classes is not None else []))
    cases = find_cases(source, labels, channels, table, patient_pattern)
    placed = place(cases, split, labelled, seed)
    checks = list(_each("check", partial(_check, classes=classes), placed, progress))
    for found, check in zip(placed, checks):
        cases.problems += [f"case {found.id}: {problem}" for problem in check.problems]
    raise_all(cases.problems)
    largest = max(max(check.values, default=0) for check in checks)
    names = classes or ("background", *(f"class_{k}" for k in range(1, largest + 1)))
    targets = tuple(_target(out, *pair, len(channels)) for pair in zip(placed, checks))
    dataset = Dataset(out, "segmentation", channels, names, targets)
    if dry_run:
        return dataset
    decisions = {
        "patients": "from the table" if table else f"from the file names, by {patient_pattern}",
        "split": "from the table" if any(f.split for f in cases.cases) else {"shares": split or SHARES, "seed": seed},
        "labelled": "from the table" if labelled is None else _labelled_by(cases, labelled, seed),
    }
    report = _report(dataset, cases, checks) | {"decisions": decisions}
    _write(dataset, placed, report, about or {}, progress)
    return read_dataset(out)


def _check_out(out: Path) -> None:
    if (out / "dataset.yaml").exists():
        raise InputError(f"{out} already holds a dataset; give another --out, or delete it first")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder as --out")
    names = {p.name for p in out.iterdir()} if out.is_dir() else set()
    temporary = {f".{name}.partial" for name in (*OURS, "dataset.yaml")}
    foreign = names - temporary - (OURS if PROGRESS in names else set())
    if foreign:
        raise InputError(f"{out} holds files that medkd prepare did not write ({min(foreign)}); give another --out")


def _check(found: Found, classes: Sequence[str] | None) -> CaseCheck:
    check = check_case(found.images, found.label, classes, filled=found.labelled == "yes")
    if found.label is None and (found.labelled == "yes" or found.split in ("val", "test")):
        check.problems.append(f"no label; it is needed: split {found.split}, labelled {found.labelled}")
    return check


def _target(out: Path, found: Found, check: CaseCheck, channels: int) -> Case:
    suffixes = [""] if channels == 1 else [f"_{i:04d}" for i in range(channels)]
    images = tuple(out / "images" / f"{found.id}{suffix}.nii.gz" for suffix in suffixes)
    label = out / "labels" / f"{found.id}.nii.gz" if found.label else None
    labelled = found.labelled == "yes"
    return Case(found.id, found.patient, found.split, labelled, images, label, check.spacing, check.shape)


def _labelled_by(cases: Source, labelled: int, seed: int) -> dict[str, Any]:
    ranked = any(f.train_order for f in cases.cases)
    return {"patients": labelled, "order": "train_order" if ranked else f"drawn with seed {seed}"}


def _report(dataset: Dataset, cases: Source, checks: list[CaseCheck]) -> dict[str, Any]:
    """What was read, assumed, changed and left out; case ids, never a path of the source."""
    return {
        "cases": len(dataset.cases),
        "patients": len({c.patient for c in dataset.cases}),
        "splits": {s: len(dataset.select(s)) for s in SPLITS},
        "labelled": len(dataset.select("train", labelled=True)),
        "label_values": sorted({v for check in checks for v in check.values}),
        "spacing_unknown": sum(c.spacing is None for c in dataset.cases),
        "changed": "headers are written anew without free text and extensions, labels as uint8; voxel values are kept, "
        "and every file of a case has the affine of its first channel",
        "refused": "nothing: a source with a problem is not written",
        "notes": {case.id: check.notes for case, check in zip(dataset.cases, checks) if check.notes},
        "unused": {kind: names for kind, names in cases.unused.items() if names},
    }


def _write(
    dataset: Dataset, placed: list[Found], report: dict[str, Any], about: dict[str, str], progress: Progress | None
) -> None:
    """Write every file that is not there yet, then the report and the table, then dataset.yaml."""
    out = dataset.root
    out.mkdir(parents=True, exist_ok=True)
    work = json.dumps({"work": _fingerprint(placed, len(dataset.channels))})
    record = out / PROGRESS
    if record.exists() and record.read_text(encoding="utf-8") != work:
        raise InputError(f"{out} holds an unfinished dataset of another source; give another --out, or delete it")
    write_whole(record, work)
    for _ in _each("write", _write_case, list(zip(dataset.cases, placed)), progress):
        pass
    write_whole(out / "report.json", json.dumps(report, indent=1))
    write_dataset(dataset, about)
    record.unlink()


def _write_case(pair: tuple[Case, Found]) -> None:
    """All files of a case on the grid of its first channel: they were shown to be one, and one leaves no doubt."""
    case, found = pair
    files = list(zip(found.images, case.images))
    if found.label and case.label:
        files.append((found.label, case.label))
    todo = [(source, target) for source, target in files if not _whole(target)]
    if not todo:
        return
    grid = read_nifti(found.images[0])
    for source, target in todo:
        array = grid.array if source == found.images[0] else read_nifti(source).array
        write_nifti(target, array.astype(np.uint8) if target == case.label else array, grid.affine, bool(grid.spacing))


def _whole(path: Path) -> bool:
    """Whether an interrupted run left this file, and left it readable to its end."""
    try:
        read_nifti(path)
    except InputError:
        return False
    return True


def _each(stage: str, function: Callable[[A], B], items: Sequence[A], progress: Progress | None) -> Iterable[B]:
    """The results in order, from a few threads. What was not begun is dropped when one fails or the user interrupts."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        for number, result in enumerate(pool.map(function, items)):
            if progress:
                progress(stage, number + 1, len(items))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _fingerprint(placed: Iterable[Found], channels: int) -> str:
    """Hash of what is prepared: the same for the same files and decisions, and it holds no path."""
    digest = hashlib.sha256(str(channels).encode())
    for found in placed:
        files = [(p.name, p.stat()) for p in (*found.images, *([found.label] if found.label else []))]
        digest.update(
            repr(
                (found.id, found.split, found.labelled, [(name, s.st_size, s.st_mtime_ns) for name, s in files])
            ).encode()
        )
    return digest.hexdigest()
