"""Which DICOM series lie under a path: a file, a folder, a DICOMDIR or a zip. Headers only; no pixels are read."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medkd.imaging.dicom.series import Series


@dataclass(frozen=True)
class Refused:
    """A file that should be DICOM and cannot be used, and why, in one line. file: of a zip, archive/member."""

    file: Path
    reason: str


@dataclass(frozen=True)
class Found:
    """What lies under a path. series: sorted by study, number and uid. ignored: files that are not DICOM.

    A context manager: on leaving it, or at the latest when Python ends, what was unpacked from a zip is deleted.
    """

    series: tuple[Series, ...]
    refused: tuple[Refused, ...]
    ignored: tuple[Path, ...]

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the files that were unpacked from a zip, if there are any."""


def find_series(path: Path) -> Found:
    """Every series under a path: a DICOM file, a folder (nested, any file names), a DICOMDIR, or a zip of these.

    A broken file is one entry of `refused`. Raises InputError where the path itself cannot be read: it does not exist,
    or a zip that is damaged, encrypted, or unpacks to more than the disk or a sane ratio allows.
    """
    raise NotImplementedError
