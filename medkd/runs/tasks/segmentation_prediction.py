"""Segment new scans: a file or a folder in, masks on each scan's own grid out."""

from __future__ import annotations

import re
from pathlib import Path

import torch

from medkd.errors import InputError
from medkd.imaging.geometry import differences
from medkd.imaging.nifti import Scan, read_nifti, write_mask
from medkd.inference.model_folder import Model
from medkd.inference.segment import segment
from medkd.runs.tasks.protocol import Predicted, Progress

SUFFIXES = (".nii.gz", ".nii")


def predict(
    model: Model, source: Path, out: Path, device: torch.device, overwrite: bool, progress: Progress | None
) -> Predicted:
    """Write a mask for every scan of `source`. A scan that cannot be read costs one line, never the others.

    source: a NIfTI file, or a folder of them; with several channels the files are NAME_0000.nii.gz, NAME_0001.nii.gz.
    out: a folder, or a file name ending in .nii or .nii.gz for a single scan. Masks that exist are kept unless
    `overwrite`, so that an interrupted run continues.
    """
    scans = find_scans(source, len(model.description.channels))
    single = out.name.endswith(SUFFIXES)
    if single and len(scans) > 1:
        raise InputError(f"{len(scans)} scans in {source}, but {out} names one file; give a folder as output")
    done = Predicted()
    for number, (name, files) in enumerate(scans.items()):
        target = out if single else out / f"{name}.nii.gz"
        if any(target.resolve() == file.resolve() for file in files):
            raise InputError(f"{target} is the scan itself; give another output so that the scan is not overwritten")
        if target.exists() and not overwrite:
            done.kept.append(target)
        else:
            try:
                _predict_one(model, files, target, device)
                done.written.append(target)
            except InputError as error:
                done.refused.extend(error.problems)
        if progress:
            progress(number + 1, len(scans))
    return done


def find_scans(source: Path, channels: int) -> dict[str, list[Path]]:
    """Name of each scan -> its files, one a channel. Raises InputError that lists every incomplete scan."""
    if source.is_file():
        files = [source]
    elif source.is_dir():
        files = sorted(p for p in source.iterdir() if p.name.endswith(SUFFIXES) and p.is_file())
    else:
        raise InputError(f"no file or folder at {source}")
    if not files:
        raise InputError(f"no NIfTI file (.nii, .nii.gz) in {source}")
    stems = {file: file.name.removesuffix(".gz").removesuffix(".nii") for file in files}
    if channels == 1:
        names = list(stems.values())
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise InputError(f"{twice} exist both as .nii and .nii.gz in {source}; keep one of each")
        return {stem: [file] for file, stem in stems.items()}
    scans: dict[str, dict[int, Path]] = {}
    for file, stem in stems.items():
        if match := re.fullmatch(r"(.+)_(\d{4})", stem):
            scans.setdefault(match[1], {})[int(match[2])] = file
    bad = [name for name, parts in scans.items() if sorted(parts) != list(range(channels))]
    if bad or not scans:
        raise InputError(
            f"the model needs {channels} channels a scan, files NAME_0000.nii.gz to NAME_{channels - 1:04d}.nii.gz; "
            f"incomplete: {bad or 'all'}"
        )
    return {name: [parts[i] for i in range(channels)] for name, parts in scans.items()}


def _predict_one(model: Model, files: list[Path], target: Path, device: torch.device) -> None:
    channels: list[Scan] = [read_nifti(file) for file in files]
    for file, scan in zip(files[1:], channels[1:]):
        if problems := differences(channels[0], scan):
            raise InputError(f"{file.name} does not lie on the grid of {files[0].name}: {'; '.join(problems)}")
    mask = segment(model, channels, device)
    target.parent.mkdir(parents=True, exist_ok=True)
    write_mask(target, mask, channels[0])
