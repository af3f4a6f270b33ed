"""Broken DICOM files by the thousand, seeded; what the reader makes of each, in a process of its own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pydicom.data

from medkd.errors import InputError
from medkd.imaging.dicom import apart
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.pixels import stored_pixels
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.volumes import plan_volumes

LARGEST_SEED = 150_000  # bytes
EXTREMES = [
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x00\x00\x00\x80",
    b"\xfe\xff\xff\xff",
    b"\0\0\0\0",
    b"\x01\0\0\0",
]
SIZE_TAGS = [b"\x28\x00\x10\x00", b"\x28\x00\x11\x00", b"\x28\x00\x08\x00", b"\x28\x00\x00\x01", b"\x28\x00\x02\x00"]
PLACE_TAGS = [b"\x20\x00\x32\x00", b"\x20\x00\x37\x00", b"\x28\x00\x30\x00", b"\x28\x00\x53\x10", b"\x20\x00\x13\x00"]


@dataclass
class Report:
    """outcomes: how many cases were read, refused or not DICOM; wrong: what raised something else, with its case.

    longest: seconds and case of the slowest; peak: the largest resident size of the process or of its decoder in MiB,
    libraries included; start: that size before the first case."""

    outcomes: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)
    longest: tuple[float, str] = (0.0, "")
    peak: float = 0.0
    start: float = 0.0


def seeds() -> list[Path]:
    """The small files of the pydicom wheel: every syntax it has, multi-frame, colour, dose, structures, DICOMDIR."""
    folder = Path(pydicom.data.__file__).parent / "test_files"
    files = [*folder.glob("*.dcm"), *folder.glob("dicomdirtests/DICOMDIR*")]
    return sorted(file for file in files if file.stat().st_size <= LARGEST_SEED)


def mutate(data: bytes, rng: np.random.Generator) -> bytes:
    """One to four mutations: flipped bytes, mostly of the header, extreme lengths and sizes, nonsense numbers, cuts."""
    broken = bytearray(data)
    header = max(200, data.rfind(b"\xe0\x7f\x10\x00"))
    for _ in range(rng.integers(1, 5)):
        kind = rng.integers(7)
        at = int(rng.integers(min(132, len(broken) - 1), min(header, len(broken))) if len(broken) > 133 else 0)
        if kind == 0:
            for place in rng.integers(0, len(broken), rng.integers(1, 20)):
                broken[place] = rng.integers(256)
        elif kind == 1:
            broken[at] = rng.integers(256)
        elif kind == 2:
            broken[at : at + 4] = EXTREMES[rng.integers(len(EXTREMES))]
        elif kind == 3:
            place = broken.find(SIZE_TAGS[rng.integers(len(SIZE_TAGS))])
            if place >= 0:
                broken[place + 8 : place + 10] = rng.bytes(2)
        elif kind == 4:
            place = broken.find(PLACE_TAGS[rng.integers(len(PLACE_TAGS))])
            text = [b"1e308\\-1", b"nan\\nan\\", b"1e-300\\0", b"99999999", b"-0\\-0\\-0"][rng.integers(5)]
            if place >= 0:
                broken[place + 8 : place + 16] = text
        elif kind == 5:
            del broken[int(rng.integers(len(broken) // 8, len(broken))) :]
        else:
            end = min(len(broken), at + int(rng.integers(1, 64)))
            if rng.random() < 0.5:
                del broken[at:end]
            else:
                broken[at:at] = broken[at:end]
        if len(broken) < 16:
            break
    return bytes(broken)


def read_everything(path: Path) -> str:
    """What a user could ask of a file: its series, their volumes, the voxels, the stored pixels."""
    found = find_series(path)
    outcome = "refused" if found.refused else "not DICOM"
    for series in found.series:
        outcome = "no image" if series.kind != "image" else "refused"
        for volume in plan_volumes(series):
            assert np.isfinite(volume.affine).all()
            try:
                read_volume(volume, allow_resample=True)
                outcome = "read"
            except InputError:
                pass
        if series.kind == "image":
            for file, header, at in zip(series.files, series.headers, series.pixels_at, strict=True):
                try:
                    stored_pixels(file, header, at)
                    outcome = "read"
                except InputError:
                    pass
    return outcome


def run(first: int, last: int, progress: Path) -> Report:
    """Cases first..last, in this process; `progress` names the case at hand, should the process die of it."""
    files = seeds()
    report, outcomes = Report(start=_resident()), Counter[str]()
    with tempfile.TemporaryDirectory(prefix="medkd-fuzz-") as folder:
        path = Path(folder) / "case.dcm"
        for case in range(first, last):
            rng = np.random.default_rng(case)
            file = files[case % len(files)]
            name = f"case {case} of {file.name}"
            progress.write_text(name)
            path.write_bytes(mutate(file.read_bytes(), rng))
            start = time.perf_counter()
            try:
                outcomes[read_everything(path)] += 1
            except InputError:
                outcomes["refused"] += 1
            except BaseException as error:
                report.wrong.append(f"{name}: {type(error).__name__}: {error}")
            report.longest = max(report.longest, (time.perf_counter() - start, name))
    if apart._decoder.child is not None:
        apart._decoder.child.communicate()  # its memory counts once it has ended
    report.outcomes, report.peak = dict(outcomes), _resident()
    return report


def run_apart(first: int, last: int, seconds: float) -> Report:
    """`run` in a child process: a decoder that crashes or hangs is a finding, not the end of the test."""
    with tempfile.TemporaryDirectory(prefix="medkd-fuzz-") as folder:
        progress = Path(folder) / "progress"
        command = [sys.executable, __file__, str(first), str(last), str(progress)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds)
            if done.returncode == 0:
                return Report(**json.loads(done.stdout.splitlines()[-1]))
            end = f"ended with {done.returncode}: {done.stderr[-300:]}"
        except subprocess.TimeoutExpired:
            end = f"did not end in {seconds} s"
        return Report(wrong=[f"{progress.read_text()}: {end}"])


def _resident() -> float:
    """The largest so far, in MiB. Of this process as the system keeps it since it was started: what `getrusage` says of
    it counts the process it was forked from as well."""
    table = Path("/proc/self/status")
    lines = table.read_text().splitlines() if table.exists() else []
    own = [int(line.split()[1]) for line in lines if line.startswith("VmHWM")]
    own = own or [resource.getrusage(resource.RUSAGE_SELF).ru_maxrss]
    return max(*own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


if __name__ == "__main__":
    print(json.dumps(asdict(run(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])))))
