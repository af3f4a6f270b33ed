"""Is a case fit to train on? Reads its files and says everything that is wrong with them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import nibabel.orientations as orient
import numpy as np

from medkd.data.scan_files import ScanFile
from medkd.errors import InputError
from medkd.imaging.geometry import differences, realign
from medkd.imaging.nifti import Scan

LARGEST = 255  # labels are stored as uint8


@dataclass
class CaseCheck:
    """What the files of a case hold. `voxels`: label value -> how many; `notes`: what had to be assumed; `axes`: where
    the array axes point, LPS or the like."""

    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    spacing: tuple[float, ...] | None = None
    shape: tuple[int, ...] = ()
    axes: str = ""
    voxels: dict[int, int] = field(default_factory=dict)

    @property
    def values(self) -> tuple[int, ...]:
        return tuple(self.voxels)


def check_case(images: Sequence[ScanFile], label: ScanFile | None, classes: Sequence[str] | None) -> CaseCheck:
    """Read every file of a case: same grid, finite and varied intensities, label values among the classes.

    classes: names by label value, or None if any value up to 255 may occur.
    """
    check = CaseCheck()
    grid: tuple[str, Scan] | None = None
    for file in images:
        scan = _read(file, "image", check)
        if scan is None:
            continue
        check.problems += _image_problems(file.name, scan.array)
        grid = grid or (file.name, scan)
        if found := differences(grid[1], scan):
            check.problems.append(f"{file.name} is not on the grid of {grid[0]}: {'; '.join(found)}")
    if label and (scan := _read(label, "label", check)):
        if grid:
            turned = aligned(scan, grid[1])
            if turned is not scan:
                check.notes.append("label: its axes had another order or direction: turned without interpolation")
            if found := differences(grid[1], turned):
                check.problems.append(f"label is not on the grid of the image: {'; '.join(found)}")
        values, counts = np.unique(scan.array, return_counts=True)
        check.problems += _label_problems(values, classes)
        if not check.problems:
            check.voxels = {int(v): int(n) for v, n in zip(values, counts)}
            if check.values == (0,):
                check.notes.append("label: every voxel is background")
            if scan.array.dtype.kind == "f":
                check.notes.append(f"label: whole numbers stored as {scan.array.dtype}, written as integers")
    if grid:
        check.spacing, check.shape = grid[1].spacing, grid[1].shape
        check.axes = "".join(orient.aff2axcodes(grid[1].affine))
    return check


def aligned(label: Scan, grid: Scan) -> Scan:
    """A label whose voxels are those of a grid in another order, in the order of the grid; any other one as it is."""
    if not differences(grid, label):
        return label
    try:
        return replace(label, array=realign(label.array, label.affine, grid), affine=grid.affine)
    except InputError:
        return label  # another grid: `differences` says in which way


def _read(file: ScanFile, kind: str, check: CaseCheck) -> Scan | None:
    try:
        scan, notes = file.read()
    except InputError as error:
        check.problems += [f"{kind}: {problem}" for problem in error.problems]
        return None
    except MemoryError:
        check.problems.append(f"{kind}: {file.name} does not fit into memory")
        return None
    check.notes += [f"{kind}: {note}" for note in notes]
    return scan


def _image_problems(name: str, array: np.ndarray) -> list[str]:
    if not np.isfinite(array).all():
        wrong = int(array.size - np.isfinite(array).sum())
        return [f"{name} holds {wrong} values that are not finite (NaN or infinite); repair or leave out the scan"]
    if array.min() == array.max():
        return [f"{name} is empty: every voxel is {array.flat[0]}; leave out the scan"]
    return []


def _label_problems(values: np.ndarray, classes: Sequence[str] | None) -> list[str]:
    """values: the sorted distinct values of a label."""
    if not np.isfinite(values).all() or (values != np.round(values)).any():
        strange = [float(v) for v in values if v != np.round(v) or not np.isfinite(v)][:4]
        return [f"label holds {strange}, not whole numbers; a label names a class by an integer"]
    allowed = len(classes) if classes else LARGEST + 1
    if strange := [int(v) for v in values if not 0 <= v < allowed]:
        more = " and more" if len(strange) > 8 else ""
        names = f" for {', '.join(classes)}" if classes else ""
        return [f"label holds the values {strange[:8]}{more}; allowed: 0 to {allowed - 1}{names}"]
    return []
