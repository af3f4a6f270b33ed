"""How `medkd prepare` of a DICOM archive scales with threads, and what its two stages cost.

    python benchmarks/prepare_threads.py [--cases 8] [--slices 96] [--rounds 3]

Generates an archive of CT series (256 x 256, noise, which compresses badly) with NIfTI labels and prepares it with 1, 2
and 4 threads in turn. Prints wall and CPU seconds of the stages, the least of the rounds: check (headers and voxels are
read), write (voxels are read again and compressed; the report).
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from pydicom.uid import generate_uid

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "imaging"))

from synthetic_dicom import write_series

import medkd.runs.prepare_write as writing
from medkd.imaging.nifti import write_nifti
from medkd.runs.prepare import prepare

AFFINE = np.diag([-0.8, -0.8, 2.0, 1.0])


def write_archive(folder: Path, cases: int, slices: int) -> None:
    rng = np.random.default_rng(0)
    for number in range(cases):
        array = rng.normal(100, 30, (256, 256, slices)).astype(np.int16)

        def edit(dataset, z: int, number: int = number) -> None:
            dataset.PatientID = f"patient{number}"
            dataset.StudyInstanceUID = generate_uid(entropy_srcs=[f"study{number}"])

        write_series(folder / "pacs" / f"s{number}", array, AFFINE, edit, seed=f"s{number}")
        label = np.zeros(array.shape, np.uint8)
        label[60:120, 60:120, slices // 3 : slices // 2] = 1
        write_nifti(folder / "labels" / f"s{number}.nii.gz", label, AFFINE)


def measure(folder: Path, out: Path, threads: int) -> dict[str, tuple[float, float]]:
    """Wall and CPU seconds of each stage."""
    writing.WORKERS = threads
    marks = {"start": (time.perf_counter(), time.process_time())}

    def progress(stage: str, done: int, total: int) -> None:
        if done == total:
            marks[stage] = (time.perf_counter(), time.process_time())

    prepare(
        folder / "pacs", out, labels=folder / "labels", classes=("background", "box"), labelled=1,
        split=(0.6, 0.2, 0.2), progress=progress,
    )  # fmt: skip
    start, check, write = (marks[name] for name in ("start", "check", "write"))
    return {
        "check": (check[0] - start[0], check[1] - start[1]),
        "write": (write[0] - check[0], write[1] - check[1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=8)
    parser.add_argument("--slices", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_archive(folder, arguments.cases, arguments.slices)
        found = {
            threads: [measure(folder, folder / f"{threads}-{round}", threads) for round in range(arguments.rounds)]
            for threads in (1, 2, 4)
        }
    load = os.getloadavg()[0]
    print(f"{arguments.cases} series of 256 x 256 x {arguments.slices}, {os.cpu_count()} cores, load {load:.1f}")
    for threads, rounds in found.items():
        for stage in ("check", "write"):
            wall, cpu = (min(one[stage][i] for one in rounds) for i in (0, 1))
            print(f"{threads} threads  {stage:5}  {wall:6.2f} s  CPU {cpu:6.2f} s")


if __name__ == "__main__":
    main()
