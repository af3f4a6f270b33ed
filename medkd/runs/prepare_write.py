"""Writing a dataset folder so that it can be interrupted: files whole or not at all, the description last."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import numpy as np

from medkd.data.checks import aligned
from medkd.data.dataset import Case, write_dataset, write_whole
from medkd.errors import InputError
from medkd.imaging.nifti import Scan, read_nifti, write_nifti
from medkd.report.slices import Slice
from medkd.runs.prepare_report import Prepared, facts, thumbnail, write_page
from medkd.runs.prepare_source import Found

WORKERS = min(8, max(4, os.cpu_count() or 4))
"""Threads: files are read while others are decoded and compressed, which releases Python's lock."""
PROGRESS = ".prepare.json"
OURS = {PROGRESS, "images", "labels", "report.json", "report.html", "cases.csv"}
"""What an unfinished dataset folder may hold, beside the temporary files of these."""
Progress = Callable[[str, int, int], None]
A = TypeVar("A")
B = TypeVar("B")


def check_out(out: Path) -> bool:
    """Whether `out` is an unfinished dataset. Raises InputError if it holds anything else."""
    if (out / "dataset.yaml").exists():
        raise InputError(f"{out} already holds a dataset; give another --out, or delete it first")
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; give a folder as --out")
    names = {p.name for p in out.iterdir()} if out.is_dir() else set()
    temporary = {f".{name}.partial" for name in (*OURS, "dataset.yaml")}
    foreign = names - temporary - (OURS if PROGRESS in names else set())
    if foreign:
        raise InputError(f"{out} holds files that medkd prepare did not write ({min(foreign)}); give another --out")
    return PROGRESS in names


def write(done: Prepared, about: dict[str, str], progress: Progress | None) -> None:
    """Write every file that is not there yet, then the reports and the table, then dataset.yaml."""
    dataset, out = done.dataset, done.dataset.root
    out.mkdir(parents=True, exist_ok=True)
    work = json.dumps({"work": _fingerprint(done)})
    record = out / PROGRESS
    if record.exists() and record.read_text(encoding="utf-8") != work:
        raise InputError(f"{out} holds an unfinished dataset of another source; give another --out, or delete it")
    report = facts(done)  # names what was refused, before the key is saved
    if done.names.key:
        done.names.key.save()
    write_whole(record, work)
    pictures = list(each("write", _write_case, list(zip(dataset.cases, done.cases)), progress))
    write_whole(out / "report.json", json.dumps(report, indent=1))
    write_page(out / "report.html", done, report, pictures)
    write_dataset(dataset, about | ({"resampled": done.resampled} if done.resampled else {}))
    record.unlink()


def each(stage: str, function: Callable[[A], B], items: Sequence[A], progress: Progress | None) -> Iterator[B]:
    """The results in order, from a few threads. What was not begun is dropped when one fails or the user interrupts."""
    pool = ThreadPoolExecutor(WORKERS)
    try:
        for number, result in enumerate(pool.map(function, items)):
            if progress:
                progress(stage, number + 1, len(items))
            yield result
    finally:
        pool.shutdown(cancel_futures=True)


def _write_case(pair: tuple[Case, Found]) -> Slice:
    """All files of a case on the grid of its first channel: they were shown to be one, and one leaves no doubt."""
    case, found = pair
    first, label = (_whole(path) for path in (case.images[0], case.label))
    grid = first or found.images[0].read()[0]
    for source, target in zip(found.images, case.images):
        if (first if target == case.images[0] else _whole(target)) is None:
            scan = grid if target == case.images[0] else source.read()[0]
            write_nifti(target, scan.array, grid.affine, bool(grid.spacing))
    if found.label and case.label and label is None:
        label = aligned(found.label.read()[0], grid)
        write_nifti(case.label, label.array.astype(np.uint8), grid.affine, bool(grid.spacing))
    return thumbnail(case.id, grid, label)


def _whole(path: Path | None) -> Scan | None:
    """The file that an interrupted run left, if it can be read to its end."""
    try:
        return read_nifti(path) if path else None
    except InputError:
        return None


def _fingerprint(done: Prepared) -> str:
    """Hash of what is prepared: the same for the same files and decisions."""
    key = done.names.key
    rows = [str(len(done.dataset.channels))]
    for found, case in zip(done.cases, done.dataset.cases):
        stamps = [file.stamp() for file in (*found.images, *([found.label] if found.label else []))]
        rows.append(repr((case.id, case.split, case.labelled, stamps)))
    return key.digest("\n".join(rows)) if key else hashlib.sha256("\n".join(rows).encode()).hexdigest()
