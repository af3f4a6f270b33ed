"""Which DICOM series lie under a path: a file, a folder, a DICOMDIR or a zip. Headers only; no pixels are read."""

from __future__ import annotations

import os
import tempfile
import time
import zipfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from medkd.errors import InputError
from medkd.imaging.dicom import archive, tags
from medkd.imaging.dicom.header import Header, read_header
from medkd.imaging.dicom.series import Series, group
from medkd.imaging.dicom.values import items, text

MEDIA_DIRECTORY = "1.2.840.10008.1.3.10"
THREADS = 4
PROBED = 16  # files, after which it is known whether the disk or the parser is waited for


@dataclass(frozen=True)
class Refused:
    """A file that should be DICOM and cannot be used, and why, in one line. file: of a zip, archive/member."""

    file: Path
    reason: str


@dataclass(frozen=True, eq=False)
class Found:
    """What lies under a path. series: sorted by study, number and uid. ignored: files that are not DICOM.

    A context manager: on leaving it, or at the latest when Python ends, what was unpacked from a zip is deleted.
    """

    series: tuple[Series, ...]
    refused: tuple[Refused, ...]
    ignored: tuple[Path, ...]
    unpacked: tempfile.TemporaryDirectory | None = field(default=None, repr=False)

    def __enter__(self) -> Found:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Delete the files that were unpacked from a zip, if there are any."""
        if self.unpacked is not None:
            self.unpacked.cleanup()
            _unpacked.discard(self.unpacked)


_unpacked: set[tempfile.TemporaryDirectory] = set()
"""Kept until they are closed: a series may outlive the Found it came from."""


def find_series(path: Path) -> Found:
    """Every series under a path: a DICOM file, a folder (nested, any file names), a DICOMDIR, or a zip of these.

    A broken file is one entry of `refused`. Raises InputError where the path itself cannot be read: it does not exist,
    or a zip that is damaged, encrypted, or unpacks to more than the disk or a sane ratio allows.
    """
    path = Path(path)
    if not path.exists():
        raise InputError(f"there is no file or folder {path}")
    if path.is_dir():
        return _found(_files(path))
    if zipfile.is_zipfile(path):
        folder = archive.unpack(path)
        _unpacked.add(folder)
        return _found(_files(Path(folder.name)), folder, path)
    header = _try(path)
    if isinstance(header, Header) and text(header.dataset.file_meta, 0x00020002) == MEDIA_DIRECTORY:
        return _found(_listed(path, header))
    return _found([path])


def _found(
    files: Iterable[Path], folder: tempfile.TemporaryDirectory | None = None, zipped: Path | None = None
) -> Found:
    files = list(files)
    headers = _headers(files)
    good, refused, ignored = [], [], []
    for file, header in zip(files, headers, strict=True):
        shown = zipped / file.relative_to(folder.name) if folder and zipped else file
        if header is None:
            ignored.append(shown)
        elif isinstance(header, str):
            refused.append(Refused(shown, header))
        elif reason := _useless(header):
            if reason != "directory":
                refused.append(Refused(shown, reason))
        else:
            good.append((file, header))
    return Found(group(good), tuple(refused), tuple(ignored), folder)


def _headers(files: list[Path]) -> list[Header | str | None]:
    """`_try` of every file: one after the other, or in threads where the first files were mostly waited for.

    Python parses one header at a time: threads hide the latency of a network folder, and on a local disk only get in
    each other's way.
    """
    started, worked = time.perf_counter(), time.thread_time()
    headers = [_try(file) for file in files[:PROBED]]
    worked = time.thread_time() - worked
    waited = time.perf_counter() - started - worked
    if waited < 2 * worked:
        return headers + [_try(file) for file in files[PROBED:]]
    with ThreadPoolExecutor(THREADS) as pool:
        return headers + list(pool.map(_try, files[PROBED:]))


def _try(path: Path) -> Header | str | None:
    """The header, why there is none, or None if the file is not DICOM."""
    try:
        return read_header(path)
    except InputError as error:
        return str(error)


def _useless(header: Header) -> str:
    if text(header.dataset.file_meta, 0x00020002) == MEDIA_DIRECTORY:
        return "directory"
    if not text(header.dataset, tags.SERIES_INSTANCE_UID):
        return "has no series UID: which slices belong together cannot be told"
    return ""


def _files(folder: Path) -> list[Path]:
    """All files under a folder, sorted; links to folders are not followed (they may lead in a circle)."""
    return sorted(Path(root) / name for root, _, names in os.walk(folder) for name in names)


def _listed(path: Path, header: Header) -> list[Path]:
    """The files that a DICOMDIR names, in its folder or below."""
    listed = []
    for record in items(header.dataset, tags.DIRECTORY_RECORDS):
        parts = [part for part in text(record, tags.REFERENCED_FILE_ID).split("\\") if part]
        if parts and not any(part == ".." or set(part) & set("/\0:") for part in parts):
            listed.append(path.parent.joinpath(*parts))
    return listed
