"""How long DICOM series take to become NIfTI files: medkd against dicom2nifti, SimpleITK's series reader and dcm2niix.

    python benchmarks/dicom_speed.py [--rounds 7] [--write docs/results/dicom.md]

Five series of 128 slices are generated in a temporary folder (with the header of a CT scanner: about 120 elements).
Each contender converts all five, each series to one uncompressed NIfTI file; contenders take turns within a round, so
that load on the machine meets all alike; the table gives medians over rounds, of seconds and of ratios to SimpleITK.
SimpleITK's reader gets its file names from its own GetGDCMSeriesFileNames and checks nothing. dicom2nifti is the
`benchmark` extra, dcm2niix a Debian package; what is absent is left out.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from importlib.metadata import PackageNotFoundError, version
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from pydicom import Dataset

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "imaging"))
from synthetic_dicom import write_series

from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.read import read_volume
from medkd.imaging.dicom.volumes import plan_volumes
from medkd.imaging.nifti import write_nifti

SERIES, SLICES = 5, 128
SIMPLEITK = "SimpleITK's series reader"


def scanner_header(dataset: Dataset, z: int) -> None:
    """What a CT scanner writes besides geometry: the share of a header that costs time and is not looked at."""
    dataset.RescaleIntercept, dataset.BitsStored, dataset.HighBit = -1024, 12, 11
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "AXIAL", "HELIX"]
    dataset.AcquisitionNumber, dataset.AcquisitionTime, dataset.ContentTime = 1, "120000.0", f"1200{z % 60:02d}.0"
    dataset.WindowCenter, dataset.WindowWidth, dataset.KVP = [40, 300], [400, 1500], "120"
    dataset.Manufacturer, dataset.InstitutionName, dataset.PatientPosition = "Maker", "Hospital", "HFS"
    dataset.ConvolutionKernel, dataset.BodyPartExamined, dataset.ProtocolName = "B30f", "ABDOMEN", "Abdomen routine"
    dataset.SliceLocation, dataset.TableHeight, dataset.GantryDetectorTilt = z * 1.5, 150, 0
    item = Dataset()
    item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = "1234", "LOCAL", "CT abdomen"
    dataset.ProcedureCodeSequence = [item]
    dataset.ReferencedImageSequence = [_reference(z), _reference(z + 1)]
    block = dataset.private_block(0x0029, "MAKER HEADER", create=True)
    for number in range(70):
        block.add_new(number, "LO", f"value {number}")


def _reference(z: int) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.2", f"1.2.3.{z}"
    return item


def generate(root: Path, size: int) -> list[Path]:
    """Folders of one series each, oblique, of `size` x `size` noisy slices."""
    rng = np.random.default_rng(0)
    angle = 0.2
    affine = np.eye(4)
    affine[:3, :3] = [
        [-0.8, 0, 0],
        [0, -0.8 * np.cos(angle), -1.5 * np.sin(angle)],
        [0, -0.8 * np.sin(angle), 1.5 * np.cos(angle)],
    ]
    folders = []
    for number in range(SERIES):
        array = rng.integers(0, 4096, (size, size, SLICES), dtype=np.uint16)
        folders.append(root / f"series{number}")
        write_series(folders[-1], array, affine, scanner_header, seed=f"s{number}")
    return folders


def by_medkd(folder: Path, out: Path) -> None:
    (series,) = find_series(folder).series
    (volume,) = plan_volumes(series)
    scan = read_volume(volume)
    write_nifti(out / f"{folder.name}.nii", scan.array, scan.affine)


def by_simpleitk(folder: Path, out: Path) -> None:
    import SimpleITK

    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder)))
    SimpleITK.WriteImage(reader.Execute(), str(out / f"{folder.name}.nii"))


def by_dicom2nifti(folder: Path, out: Path) -> None:
    import dicom2nifti

    dicom2nifti.dicom_series_to_nifti(str(folder), str(out / f"{folder.name}.nii"), reorient_nifti=False)


def by_dcm2niix(folder: Path, out: Path) -> None:
    command = ["dcm2niix", "-z", "n", "-b", "n", "-f", folder.name, "-o", str(out), str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


Contender = Callable[[list[Path], Path], None]


def each(convert: Callable[[Path, Path], None]) -> Contender:
    def run(folders: list[Path], out: Path) -> None:
        for folder in folders:
            convert(folder, out)

    return run


def in_processes(pool: ProcessPoolExecutor, convert: Callable[[Path, Path], None]) -> Contender:
    def run(folders: list[Path], out: Path) -> None:
        list(pool.map(convert, folders, [out] * len(folders)))

    return run


def cpu_seconds() -> float:
    """Of this process and its children that have ended."""
    parts = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(part.ru_utime + part.ru_stime for part in parts)


def measure(
    contenders: dict[str, Contender], folders: list[Path], root: Path, rounds: int
) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each round."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    for number in range(rounds + 1):  # the first round warms caches and imports
        for name, run in contenders.items():
            out = root / "out"
            out.mkdir()
            start, cpu = time.perf_counter(), cpu_seconds()
            run(folders, out)
            if number:
                times[name].append((time.perf_counter() - start, cpu_seconds() - cpu))
            written = sorted(path.stat().st_size for path in out.glob("*.nii"))
            assert len(written) == SERIES, f"{name} wrote {len(written)} of {SERIES} files"
            shutil.rmtree(out)
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--write", type=Path, help="the page whose table is replaced")
    options = parser.parse_args()
    lines = []
    pool = ProcessPoolExecutor(2, mp_context=get_context("spawn"))
    contenders: dict[str, Contender] = {
        f"{SIMPLEITK}, no checks": each(by_simpleitk),
        "medkd, all checks": each(by_medkd),
        "medkd, two processes": in_processes(pool, by_medkd),
        f"{SIMPLEITK}, two processes": in_processes(pool, by_simpleitk),
    }
    with contextlib.suppress(PackageNotFoundError):
        contenders[f"dicom2nifti {version('dicom2nifti')}"] = each(by_dicom2nifti)
    if shutil.which("dcm2niix"):
        contenders["dcm2niix"] = each(by_dcm2niix)
    for size in options.sizes:
        with tempfile.TemporaryDirectory(prefix="medkd-speed-") as temporary:
            folders = generate(Path(temporary), size)
            times = measure(contenders, folders, Path(temporary), options.rounds)
        base = times[f"{SIMPLEITK}, no checks"]
        for name, rounds in times.items():
            wall, cpu = zip(*rounds, strict=True)
            ratios = [statistics.median(a[i] / b[i] for a, b in zip(rounds, base, strict=True)) for i in (0, 1)]
            cpu_part = "" if "processes" in name else f"{statistics.median(cpu):.2f} | {ratios[1]:.2f}"
            lines.append(
                f"| {size} x {size} | {name} | {statistics.median(wall):.2f} | {min(wall):.2f} to {max(wall):.2f}"
                f" | {ratios[0]:.2f} | {cpu_part or '|'} |"
            )
            print(lines[-1], flush=True)
    pool.shutdown()
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    note = f"{os.cpu_count()} cores; load of the machine at the end {load}; {options.rounds} rounds."
    print(note)
    if options.write:
        write_table(options.write, lines, note)


def write_table(page: Path, lines: list[str], note: str) -> None:
    """Replace what lies between the two marks of the page."""
    start, end = "<!-- speed -->", "<!-- end of speed -->"
    head = "| slices | contender | seconds (median) | range | ratio | CPU seconds | ratio |"
    table = [head, "|---|---|---|---|---|---|---|", *lines]
    text = page.read_text(encoding="utf-8")
    before, after = text.split(start)[0], text.split(end)[1]
    page.write_text(before + "\n".join([start, *table, "", note, end]) + after, encoding="utf-8")


if __name__ == "__main__":
    main()
