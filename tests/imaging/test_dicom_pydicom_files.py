"""Every test file of pydicom (its wheel, and pydicom-data where installed): read, or refused in one line."""

from __future__ import annotations

import importlib.metadata
import time
import warnings
from pathlib import Path

import numpy as np
import pydicom.data
import pytest

from medkd.errors import InputError
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.pixels import stored_pixels
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.volumes import plan_volumes

SLOW = 200_000  # bytes: larger files wait for `pytest -m slow`


def files() -> list[Path]:
    found = [path for path in Path(pydicom.data.__file__).parent.rglob("*") if path.is_file()]
    try:
        listed = importlib.metadata.files("pydicom-data") or []
        found += [Path(str(importlib.metadata.distribution("pydicom-data").locate_file(file))) for file in listed]
    except importlib.metadata.PackageNotFoundError:
        pass
    return sorted(path for path in found if path.is_file() and path.suffix not in (".py", ".pyc", ".json"))


def outcomes(path: Path) -> list[str]:
    """One line for each thing in a file: what it became, or why not."""
    lines = []
    found = find_series(path)
    lines += [f"refused: {refused.reason}" for refused in found.refused] + ["not DICOM"] * len(found.ignored)
    for series in found.series:
        if series.kind != "image":
            lines.append(f"no image: {series.kind}")
        for volume in plan_volumes(series):
            try:
                scan = read_volume(volume)
                assert scan.shape == volume.shape
                lines.append(f"volume {scan.shape} of {scan.array.dtype}")
            except InputError as error:
                lines += [f"refused: {problem}" for problem in error.problems]
        for file, header, at in zip(series.files, series.headers, series.pixels_at, strict=True):
            if series.kind == "image":
                try:
                    lines.append(f"pixels {stored_pixels(file, header, at).shape}")
                except InputError as error:
                    lines.append(f"no pixels: {error}")
    return lines


def check(paths: list[Path]) -> dict[str, list[str]]:
    seen = {}
    for path in paths:
        start = time.perf_counter()
        lines = outcomes(path)
        assert lines or "DICOMDIR" in path.name, f"nothing was said about {path.name}"
        assert not [line for line in lines if "\n" in line], path.name
        assert time.perf_counter() - start < 60, path.name
        seen[path.name] = lines
    return seen


def test_small_files() -> None:
    seen = check([path for path in files() if path.stat().st_size < SLOW])
    assert len(seen) > 80
    read = {name for name, lines in seen.items() if any(line.startswith(("volume", "pixels")) for line in lines)}
    assert read >= {"CT_small.dcm", "MR_small_RLE.dcm", "MR_small_expb.dcm", "JPEG2000.dcm", "image_dfl.dcm"}
    assert seen["rtstruct.dcm"] == ["no image: structures"]
    assert seen["liver_1frame.dcm"] == ["no image: segmentation"]
    assert "truncated" in " ".join(seen["MR_truncated.dcm"])


@pytest.mark.slow
def test_large_files() -> None:
    check([path for path in files() if path.stat().st_size >= SLOW])


def test_pydicom_agrees_about_pixels() -> None:
    """Our way to plain pixels against pydicom's, for every file that both can read."""
    warnings.simplefilter("ignore")  # pydicom's own, of odd files
    agreed = 0
    for path in files():
        if path.stat().st_size >= SLOW or path.suffix != ".dcm":
            continue
        for series in find_series(path).series:
            if series.kind != "image" or series.pixels_at[0] is None:
                continue
            try:
                ours = stored_pixels(path, series.headers[0], series.pixels_at[0])
                theirs = pydicom.pixels.pixel_array(path, raw=True)
            except Exception:  # one of the two refuses; `check` has seen ours
                continue
            assert np.array_equal(np.squeeze(ours), np.squeeze(theirs)), path.name
            agreed += 1
    assert agreed > 30
