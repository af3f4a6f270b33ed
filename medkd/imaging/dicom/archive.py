"""Zip archives of DICOM files, unpacked into a temporary folder without trusting their names or sizes."""

from __future__ import annotations

import shutil
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from medkd.errors import InputError

LARGEST_RATIO = 200
"""Unpacked to packed: uncompressed DICOM seldom shrinks below a tenth; a bomb has a thousand."""
SMALL = 64 << 20  # bytes that any archive may unpack to
MOST_MEMBERS = 1_000_000


def unpack(path: Path) -> tempfile.TemporaryDirectory:
    """Unpack a zip; the folder goes when the object is cleaned up, or when Python ends.

    Raises InputError for what is damaged, encrypted, names files outside the folder, or does not fit.
    """
    folder = tempfile.TemporaryDirectory(prefix="medkd-zip-")
    try:
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            _check(path, members, shutil.disk_usage(folder.name).free)
            for member in members:
                target = Path(folder.name) / _inside(path, member.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)  # no more than the directory of the archive promised, or an error
    except InputError:
        folder.cleanup()
        raise
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        folder.cleanup()
        raise InputError(f"{path.name} cannot be unpacked ({' '.join(str(error).split())}); copy it again") from None
    return folder


def _check(path: Path, members: list[zipfile.ZipInfo], free: int) -> None:
    size = sum(member.file_size for member in members)
    if any(member.flag_bits & 1 for member in members):
        raise InputError(f"{path.name} is encrypted; unpack it with its password and give the folder")
    if len(members) > MOST_MEMBERS or size > max(SMALL, LARGEST_RATIO * path.stat().st_size):
        raise InputError(
            f"{path.name} would unpack to {size >> 20} MiB in {len(members)} files, more than {LARGEST_RATIO} times its"
            " size; unpack it yourself if you trust it, and give the folder"
        )
    if size > free:
        raise InputError(f"{path.name} unpacks to {size >> 20} MiB; the temporary folder has {free >> 20} MiB")


def _inside(path: Path, name: str) -> PurePosixPath:
    parts = PurePosixPath(name.replace("\\", "/"))
    if parts.is_absolute() or ".." in parts.parts or ":" in name or not parts.parts or "\0" in name:
        raise InputError(f"{path.name} holds a file that would be written outside its folder; it is refused")
    return parts
