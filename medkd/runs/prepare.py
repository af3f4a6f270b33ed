"""From a folder of NIfTI images and labels to a checked dataset folder.

Everything is checked before anything is written, and every problem of every case comes in one list. Files are written
whole or not at all, dataset.yaml last: a folder without it is unfinished, and the same command continues it.
"""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from medkd.data.dataset import Case, Dataset, split_problems, write_dataset
from medkd.data.splits import choose_labelled, split_patients
from medkd.errors import InputError, raise_all
from medkd.imaging.geometry import differences
from medkd.imaging.nifti import SUFFIXES, read_nifti, write_nifti

WORKERS = 4
YES, NO = ("yes", "true", "1"), ("no", "false", "0", "")
PROGRESS = ".prepare.json"


@dataclass(frozen=True)
class Found:
    """One case in the source: its files, and what the table says of it ("" where it does not say)."""

    id: str
    patient: str
    images: tuple[Path, ...]
    label: Path | None
    split: str = ""
    labelled: str = ""
    train_order: str = ""


def prepare(
    source: Path,
    out: Path,
    *,
    labels: Path | None = None,
    table: Path | None = None,
    classes: tuple[str, ...] | None = None,
    channels: tuple[str, ...] = ("image",),
    split: tuple[float, float, float] = (0.7, 0.1, 0.2),
    labelled: int | None = None,
    seed: int = 0,
    patient_pattern: str = r"([^_]+)",
    dry_run: bool = False,
    about: dict[str, str] | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> Dataset:
    """Check a folder of scans and write the dataset folder `out`. Raises InputError that lists every problem.

    source: holds images/ (and labels/), or the images themselves with `labels` elsewhere. Several channels: files
    CASE_0000.nii.gz, CASE_0001.nii.gz in the order of `channels`.
    table: CSV with case, patient, split and optionally labelled (yes, no) or train_order. Without it the patient of a
    file is what `patient_pattern` matches at the start of its name (default: all before the first _), and patients are
    split by the shares `split` with `seed`.
    labelled: how many training patients are labelled: the first by train_order, else drawn with `seed`.
    classes: names by label value, background first; without it they are class_1 ... up to the largest label found.
    """
    _check_out(out)
    found = (
        _from_table(source, labels, channels, table)
        if table
        else _from_folder(source, labels, channels, patient_pattern)
    )
    placed = _place(found, split, labelled, seed, table is not None)
    checked = _check_all(placed, classes, progress)
    names = classes or ("background", *(f"class_{k}" for k in range(1, max(c.largest for c in checked) + 1)))
    dataset = Dataset(out, "segmentation", channels, names, tuple(_target(out, c, channels) for c in checked))
    if not dry_run:
        _write(
            dataset,
            checked,
            about or {},
            {"seed": seed, "split": list(split), "from_table": table is not None},
            progress,
        )
    return dataset


def _check_out(out: Path) -> None:
    if (out / "dataset.yaml").exists():
        raise InputError(f"{out} already holds a dataset; give another --out, or delete it first")
    if out.exists() and any(out.iterdir()) and not (out / PROGRESS).exists():
        raise InputError(f"{out} holds files that medkd prepare did not write; give another --out")


def _from_folder(source: Path, labels: Path | None, channels: tuple[str, ...], pattern: str) -> list[Found]:
    images, label_folder = _folders(source, labels)
    if re.compile(pattern).groups != 1:
        raise InputError(f"patient pattern is {pattern!r}; exactly one group (...) is needed, which is the patient")
    problems, found = [], []
    for name, files in _scans(images, len(channels), problems).items():
        match = re.match(pattern, name)
        if not match:
            problems.append(f"case {name}: the name does not match the patient pattern {pattern!r}")
            continue
        found.append(Found(name, match[1], files, _file(label_folder, name)))
    raise_all(problems or ([] if found else [f"no NIfTI image (.nii, .nii.gz) in {images}"]))
    return found


def _from_table(source: Path, labels: Path | None, channels: tuple[str, ...], table: Path) -> list[Found]:
    if not table.is_file():
        raise InputError(f"no table at {table}")
    with table.open(newline="", encoding="utf-8-sig") as file:
        rows = list(csv.DictReader(file))
    missing = {"case", "patient"} - set(rows[0] if rows else ())
    if missing:
        raise InputError(f"{table.name} lacks the columns {', '.join(sorted(missing))}, or has no rows")
    images, label_folder = _folders(source, labels)
    problems: list[str] = []
    scans = _scans(images, len(channels), problems)
    problems.clear()  # files the table does not name are no problem; a case it names is checked below
    found = []
    for row in rows:
        name = row["case"]
        if name not in scans:
            problems.append(f"case {name}: no image in {images.name}/ ({len(channels)} channel(s) needed)")
            continue
        values = {k: (row.get(k) or "").strip() for k in ("split", "labelled", "train_order")}
        if values["labelled"].lower() not in YES + NO:
            problems.append(f"case {name}: labelled is {values['labelled']!r}; allowed: yes, no")
        found.append(Found(name, row["patient"], scans[name], _file(label_folder, name), **values))
    raise_all(problems)
    return found


def _folders(source: Path, labels: Path | None) -> tuple[Path, Path]:
    if not source.is_dir():
        raise InputError(f"no folder at {source}")
    images = source / "images" if (source / "images").is_dir() else source
    return images, labels or source / "labels"


def _scans(folder: Path, channels: int, problems: list[str]) -> dict[str, tuple[Path, ...]]:
    files = sorted(p for p in folder.iterdir() if p.name.endswith(SUFFIXES) and not p.name.startswith("."))
    if channels == 1:
        return {_stem(p): (p,) for p in files}
    groups: dict[str, list[Path]] = {}
    for path in files:
        groups.setdefault(re.sub(r"_\d{4}$", "", _stem(path)), []).append(path)
    for name, parts in list(groups.items()):
        if [_stem(p) for p in parts] != [f"{name}_{i:04d}" for i in range(channels)]:
            problems.append(
                f"case {name}: {len(parts)} files; {channels} channels need {name}_0000 to _{channels - 1:04d}"
            )
            del groups[name]
    return {name: tuple(parts) for name, parts in groups.items()}


def _stem(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".nii")


def _file(folder: Path, name: str) -> Path | None:
    return next((folder / (name + s) for s in SUFFIXES if (folder / (name + s)).is_file()), None)


def _place(
    found: list[Found], fractions: tuple[float, float, float], labelled: int | None, seed: int, from_table: bool
) -> list[Found]:
    """Give every case its split and say whether it is labelled."""
    if not any(f.split for f in found):
        splits, chosen = split_patients([f.patient for f in found], fractions, labelled or 0, seed)
        return [replace(f, split=splits[f.patient], labelled=_yes(f.patient in chosen)) for f in found]
    raise_all(split_problems([(f.id, f.patient, f.split) for f in found]))
    if labelled is None:
        if not any(f.labelled for f in found):
            raise InputError("the table has no column labelled; say how many training patients are with --labelled K")
        return [replace(f, labelled=_yes(f.labelled.lower() in YES)) for f in found]
    order = {f.patient: f.train_order for f in found if f.split == "train"}
    if all(v.isdigit() for v in order.values()):
        train = sorted(order, key=lambda p: int(order[p]))
    else:
        rng = np.random.default_rng(seed)
        train = [sorted(order)[i] for i in rng.permutation(len(order))]
    chosen = choose_labelled(train, labelled)
    return [replace(f, labelled=_yes(f.patient in chosen)) for f in found]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


@dataclass(frozen=True)
class Checked:
    """A case that is right, with what the check read of it."""

    found: Found
    spacing: tuple[float, ...] | None
    shape: tuple[int, ...]
    largest: int


def _check_all(
    placed: list[Found], classes: tuple[str, ...] | None, progress: Callable[[str, int, int], None] | None
) -> list[Checked]:
    checked, problems = [], []
    with ThreadPoolExecutor(WORKERS) as pool:
        for number, (case, wrong) in enumerate(pool.map(lambda f: _check(f, classes), placed)):
            problems += wrong
            checked += [case] if case else []
            if progress:
                progress("check", number + 1, len(placed))
    raise_all(problems)
    return checked


def _check(found: Found, classes: tuple[str, ...] | None) -> tuple[Checked | None, list[str]]:
    """Read a case; every problem it has, each starting with its id."""
    problems: list[str] = []
    channels = []
    for path in found.images:
        try:
            scan = read_nifti(path)
        except InputError as error:
            problems += error.problems
            continue
        if not np.isfinite(scan.array).all():
            problems.append(f"{path.name} holds values that are not finite (NaN or infinite)")
        elif scan.array.min() == scan.array.max():
            problems.append(f"{path.name} is empty: every voxel is {scan.array.flat[0]}")
        channels.append(scan)
    for path, scan in zip(found.images[1:], channels[1:]):
        problems += [f"{path.name} is not on the grid of channel 1: {d}" for d in differences(channels[0], scan)]
    largest = 0
    needs_label = found.labelled == "yes" or found.split != "train"
    if found.label is None and needs_label:
        problems.append(f"no label; it is needed: split {found.split}, labelled {found.labelled}")
    elif found.label is not None:
        try:
            label = read_nifti(found.label)
        except InputError as error:
            problems += [f"label: {p}" for p in error.problems]
        else:
            if channels:
                problems += [f"label is not on the grid of the image: {d}" for d in differences(channels[0], label)]
            wrong, largest = _label_problems(label.array, classes, needs_label)
            problems += wrong
    if problems:
        return None, [f"case {found.id}: {p}" for p in problems]
    return Checked(found, channels[0].spacing, channels[0].shape, largest), []


def _label_problems(label: np.ndarray, classes: tuple[str, ...] | None, needed: bool) -> tuple[list[str], int]:
    values = np.unique(label)
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        return ["label holds values that are not whole numbers; a label names a class by an integer"], 0
    allowed = len(classes) if classes else 256
    strange = [int(v) for v in values if not 0 <= v < allowed]
    if strange:
        names = f"0 to {allowed - 1} for {', '.join(classes)}" if classes else "0 to 255"
        return [f"label holds the values {strange[:8]}; allowed: {names}"], 0
    if needed and values.max() == 0:
        return ["label is empty: every voxel is background"], 0
    return [], int(values.max())


def _target(out: Path, checked: Checked, channels: tuple[str, ...]) -> Case:
    found = checked.found
    suffixes = [""] if len(channels) == 1 else [f"_{i:04d}" for i in range(len(channels))]
    return Case(
        found.id,
        found.patient,
        found.split,
        found.labelled == "yes",
        tuple(out / "images" / f"{found.id}{suffix}.nii.gz" for suffix in suffixes),
        out / "labels" / f"{found.id}.nii.gz" if found.label else None,
        checked.spacing,
        checked.shape,
    )


def _write(
    dataset: Dataset,
    checked: list[Checked],
    about: dict[str, str],
    decisions: dict[str, object],
    progress: Callable[[str, int, int], None] | None,
) -> None:
    """Write every file that is not there yet, then the table, then dataset.yaml."""
    out = dataset.root
    out.mkdir(parents=True, exist_ok=True)
    fingerprint = {"work": _fingerprint(checked)}
    record = out / PROGRESS
    if record.exists() and json.loads(record.read_text()) != fingerprint:
        raise InputError(f"{out} holds an unfinished dataset of another source; give another --out, or delete it")
    record.write_text(json.dumps(fingerprint))
    with ThreadPoolExecutor(WORKERS) as pool:
        for number, _ in enumerate(pool.map(lambda pair: _write_case(*pair), zip(dataset.cases, checked))):
            if progress:
                progress("write", number + 1, len(checked))
    report = {
        "cases": len(dataset.cases),
        "patients": len({c.patient for c in dataset.cases}),
        "splits": {s: sum(c.split == s for c in dataset.cases) for s in ("train", "val", "test")},
        "labelled": sum(c.labelled and c.split == "train" for c in dataset.cases),
        "spacing_unknown": sum(c.spacing is None for c in dataset.cases),
        "changed": "headers rewritten without free text and extensions; voxels and affines unchanged",
        **decisions,
    }
    (out / "report.json").write_text(json.dumps(report, indent=1))
    write_dataset(dataset, about)
    record.unlink()


def _write_case(case: Case, checked: Checked) -> None:
    for source, target in zip(checked.found.images, case.images):
        if not target.exists():
            scan = read_nifti(source)
            write_nifti(target, scan.array, scan.affine, scan.spacing is not None)
    if case.label and checked.found.label and not case.label.exists():
        # The label takes the affine of its image: they were shown to be one grid, and one affine leaves no doubt.
        image, label = read_nifti(checked.found.images[0]), read_nifti(checked.found.label)
        write_nifti(case.label, label.array.astype(np.uint8), image.affine, image.spacing is not None)


def _fingerprint(checked: Iterable[Checked]) -> str:
    """Hash of what is prepared: the same for the same files and decisions, and it names no path."""
    digest = hashlib.sha256()
    for c in checked:
        files = [p.stat() for p in (*c.found.images, *([c.found.label] if c.found.label else []))]
        digest.update(
            repr((c.found.id, c.found.split, c.found.labelled, [(s.st_size, s.st_mtime_ns) for s in files])).encode()
        )
    return digest.hexdigest()
