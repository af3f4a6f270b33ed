"""What the images and labels of a case are read from: NIfTI or NRRD files, and volumes of DICOM series."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from medkd.imaging import nifti, nrrd
from medkd.imaging.dicom import tags
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.values import text
from medkd.imaging.dicom.volumes import Volume
from medkd.imaging.nifti import Header, Scan

SUFFIXES = (*nifti.SUFFIXES, *nrrd.SUFFIXES)


class ScanFile(Protocol):
    """A volume that is still on the disk. name: for messages. stamp: the same as long as the same would be read."""

    @property
    def name(self) -> str: ...
    def read(self) -> tuple[Scan, tuple[str, ...]]:
        """The scan, and what had to be assumed or changed to read it. Raises InputError."""

    def stamp(self) -> str: ...


@dataclass(frozen=True)
class VolumeFile:
    """A NIfTI or NRRD file."""

    path: Path

    @property
    def name(self) -> str:
        return self.path.name

    def header(self) -> Header:
        """What it says of itself, without reading voxels. Raises InputError."""
        return nrrd.read_nrrd_header(self.path) if self._is_nrrd else nifti.read_header(self.path)

    def read(self) -> tuple[Scan, tuple[str, ...]]:
        scan = nrrd.read_nrrd(self.path) if self._is_nrrd else nifti.read_nifti(self.path)
        return scan, self.header().notes

    def stamp(self) -> str:
        stat = self.path.stat()
        return f"{self.path.name} {stat.st_size} {stat.st_mtime_ns}"

    @property
    def _is_nrrd(self) -> bool:
        return self.path.name.endswith(nrrd.SUFFIXES)


@dataclass(frozen=True)
class DicomVolume:
    """A volume of a DICOM image series; `allow_resample` as in `read_volume`."""

    volume: Volume
    allow_resample: bool = False

    @property
    def name(self) -> str:
        return self.volume.series.files[0].name

    def read(self) -> tuple[Scan, tuple[str, ...]]:
        changed = (f"resampled: {self.volume.fix}",) if self.resampled else ()
        return read_volume(self.volume, self.allow_resample), (*changed, *self.volume.notes)

    @property
    def resampled(self) -> bool:
        return bool(self.allow_resample and self.volume.problems)

    def stamp(self) -> str:
        """By the UIDs of the slices, not by paths: the files of a zip are unpacked to another place every time."""
        series = self.volume.series
        digest = hashlib.sha256(f"{series.uid} {self.volume.name} {self.resampled}".encode())
        for file, frame in self.volume.frames:
            uid = text(series.headers[file], tags.SOP_INSTANCE_UID)
            digest.update(f"{uid} {frame} {series.files[file].stat().st_size}\n".encode())
        return digest.hexdigest()
