"""Is a case fit to train on? Reads its files and says everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from medkd.errors import InputError
from medkd.imaging.geometry import differences
from medkd.imaging.nifti import Scan, read_header, read_nifti

LARGEST = 255  # labels are stored as uint8


@dataclass
class CaseCheck:
    """What the files of a case hold. `values`: the label values present; `notes`: what had to be assumed."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    spacing: tuple[float, ...] | None = None
    shape: tuple[int, ...] = ()
    values: tuple[int, ...] = ()


def check_case(images: Sequence[Path], label: Path | None, classes: Sequence[str] | None, filled: bool) -> CaseCheck:
    """Read every file of a case: same grid, finite and varied intensities, label values among the classes.

    classes: names by label value, or None if any value up to 255 may occur. filled: the label may not be empty.
    """
    check = CaseCheck()
    grid: tuple[str, Scan] | None = None
    for path in images:
        scan = _read(path, "image", check)
        if scan is None:
            continue
        check.problems += _image_problems(path.name, scan.array)
        grid = grid or (path.name, scan)
        if found := differences(grid[1], scan):
            check.problems.append(f"{path.name} is not on the grid of {grid[0]}: {'; '.join(found)}")
    if label and (scan := _read(label, "label", check)):
        if grid and (found := differences(grid[1], scan)):
            check.problems.append(f"label is not on the grid of the image: {'; '.join(found)}")
        values = np.unique(scan.array)
        check.problems += _label_problems(values, classes, filled)
        if not check.problems:
            check.values = tuple(int(v) for v in values)
            if check.values == (0,):
                check.notes.append("label: every voxel is background")
            if scan.array.dtype.kind == "f":
                check.notes.append(f"label: whole numbers stored as {scan.array.dtype}, written as integers")
    if grid:
        check.spacing, check.shape = grid[1].spacing, grid[1].shape
    return check


def _read(path: Path, kind: str, check: CaseCheck) -> Scan | None:
    try:
        scan = read_nifti(path)
        check.notes += [f"{kind}: {note}" for note in read_header(path).notes]
    except InputError as error:
        check.problems += [f"{kind}: {problem}" for problem in error.problems]
        return None
    return scan


def _image_problems(name: str, array: np.ndarray) -> list[str]:
    if not np.isfinite(array).all():
        wrong = int(array.size - np.isfinite(array).sum())
        return [f"{name} holds {wrong} values that are not finite (NaN or infinite); repair or leave out the scan"]
    if array.min() == array.max():
        return [f"{name} is empty: every voxel is {array.flat[0]}; leave out the scan"]
    return []


def _label_problems(values: np.ndarray, classes: Sequence[str] | None, filled: bool) -> list[str]:
    """values: the sorted distinct values of a label."""
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        strange = [float(v) for v in values if v != np.round(v) or not np.isfinite(v)][:4]
        return [f"label holds {strange}, not whole numbers; a label names a class by an integer"]
    allowed = len(classes) if classes else LARGEST + 1
    if strange := [int(v) for v in values if not 0 <= v < allowed]:
        more = " and more" if len(strange) > 8 else ""
        names = f" for {', '.join(classes)}" if classes else ""
        return [f"label holds the values {strange[:8]}{more}; allowed: 0 to {allowed - 1}{names}"]
    if filled and values.max() == 0:
        return ["label is empty: every voxel is background; a labelled case needs foreground"]
    return []
