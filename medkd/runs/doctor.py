"""What this machine and installation can do, and what to do about the rest. Fast, and never an error."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement

OPENCV = ("opencv-python", "opencv-python-headless", "opencv-contrib-python", "opencv-contrib-python-headless")
GIB = 1 << 30
LITTLE_DISK, LITTLE_SHARED, LITTLE_MEMORY = 10 * GIB, GIB, 4 * GIB


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and what to do about it; empty if it is fine."""

    name: str
    found: str
    advice: str = ""

    @property
    def ok(self) -> bool:
        return not self.advice


def examine() -> list[Check]:
    """All checks, in the order in which one reads them."""
    looks: tuple[Callable[[], Iterator[Check]], ...] = (
        _python, _packages, _opencv, _detectron2, _devices, _threads, _memory, _disk, _shared_memory, _syntaxes,
    )  # fmt: skip
    checks: list[Check] = []
    for look in looks:
        try:
            checks += look()
        except Exception as error:  # a doctor who faints is of no use
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            checks.append(Check(look.__name__.strip("_").replace("_", " "), f"not known ({reason})", "look by hand"))
    return checks


def _python() -> Iterator[Check]:
    old = sys.version_info < (3, 11)
    yield Check(
        "python", f"{platform.python_version()} on {platform.platform(terse=True)}", "3.11 or newer is needed" * old
    )
    yield Check("medkd", _version("medkd") or "not installed", "" if _version("medkd") else "pip install medkd")


def _packages() -> Iterator[Check]:
    """Every package that medkd needs, against the versions it was made for."""
    for line in importlib.metadata.requires("medkd") or []:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        if wanted.marker and not wanted.marker.evaluate({"extra": ""}):
            continue
        version = _version(wanted.name)
        fits = version is not None and wanted.specifier.contains(version, prereleases=True)
        asked = f"{wanted.name}{wanted.specifier}"
        yield Check(wanted.name, version or "not installed", "" if fits else f"pip install '{asked}'")


def _opencv() -> Iterator[Check]:
    """Two of them write their files over each other's, and which one is imported is chance."""
    found = [f"{name} {version}" for name in OPENCV if (version := _version(name))]
    fix = f"pip uninstall -y {' '.join(OPENCV)}, then pip install opencv-python-headless"
    yield Check("opencv", ", ".join(found) or "not installed (not needed)", fix if len(found) > 1 else "")


def _detectron2() -> Iterator[Check]:
    """Optional, and built from source: copies of others on PyPI have the same import name and other content."""
    found, version = importlib.util.find_spec("detectron2"), _version("detectron2")
    said = f"{version} at {found.origin}" if found and version else "not installed (not needed)"
    if found and not version:
        said = f"another package's copy at {found.origin}"
    fix = "pip uninstall the package it came with, then docs/detection.md" if found and not version else ""
    yield Check("detectron2", said, fix)


def _devices() -> Iterator[Check]:
    import torch

    driver = Path("/proc/driver/nvidia/version").exists() or shutil.which("nvidia-smi") is not None
    if torch.cuda.is_available():
        for number in range(torch.cuda.device_count()):
            about = torch.cuda.get_device_properties(number)
            yield Check(
                f"cuda:{number}", f"{about.name}, {about.total_memory / GIB:.0f} GiB, CUDA {torch.version.cuda}"
            )
    elif driver:
        why = "is built for CPUs" if torch.version.cuda is None else f"is built for CUDA {torch.version.cuda}"
        yield Check(
            "devices", f"cpu only: an NVIDIA driver is there, but this torch {why} and cannot use it",
            "install the torch that fits the driver (nvidia-smi names its CUDA): pytorch.org/get-started",
        )  # fmt: skip
    elif torch.backends.mps.is_available():
        yield Check("devices", "mps (Apple)")
    else:
        yield Check("devices", "cpu only, no NVIDIA driver: small models")


def _threads() -> Iterator[Check]:
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    cores = min(usable, max(1, round(quota))) if quota else usable
    import torch

    threads = torch.get_num_threads()
    limit = f", limited to {quota:.3g} by the container" if quota else ""
    advice = f"export OMP_NUM_THREADS={cores}: more threads than cores slow each other down" if threads > cores else ""
    yield Check("threads", f"{threads} for torch, {usable} cores{limit}", advice)


def _quota() -> float | None:
    """The cores that a container may use at once."""
    try:
        allowed, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return None if allowed == "max" else int(allowed) / int(period)
    except (OSError, ValueError):
        return None


def _memory() -> Iterator[Check]:
    file = Path("/proc/meminfo")
    if not file.exists():
        return
    amounts = dict(line.split(":", 1) for line in file.read_text().splitlines() if ":" in line)
    free = int(amounts["MemAvailable"].split()[0]) << 10
    yield Check(
        "memory", f"{free / GIB:.1f} GiB free", "close other programs: scans may not fit" * (free < LITTLE_MEMORY)
    )


def _disk() -> Iterator[Check]:
    for name, folder in (("disk here", Path.cwd()), ("disk for temporary files", Path(tempfile.gettempdir()))):
        free = shutil.disk_usage(folder).free
        advice = "datasets and runs need more room: work on another disk" if folder == Path.cwd() else "set TMPDIR"
        yield Check(name, f"{free / GIB:.1f} GiB free", advice if free < LITTLE_DISK else "")


def _shared_memory() -> Iterator[Check]:
    folder = Path("/dev/shm")
    if not folder.exists():
        yield Check("shared memory", "no /dev/shm on this system")
        return
    size = shutil.disk_usage(folder).total
    advice = "training on several GPUs needs more: docker run --shm-size=8g" if size < LITTLE_SHARED else ""
    yield Check("shared memory", f"/dev/shm {size / GIB:.2g} GiB", advice)


def _syntaxes() -> Iterator[Check]:
    from medkd.imaging.dicom.decode import WOULD_HELP
    from medkd.imaging.dicom.pixels import decodable

    for syntax in decodable():
        helps = WOULD_HELP.get(syntax.uid)  # type: ignore[call-overload]
        advice = f"to read such files install {helps}" if helps else "no known package reads it: export it differently"
        name = f"DICOM {syntax.name.replace(' Image Compression', '')}"
        yield Check(name, syntax.decoder or "cannot be decoded here", "" if syntax.decoder else advice)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
