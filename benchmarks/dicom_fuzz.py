"""Thousands of broken DICOM files through the reader; writes what came of them into docs/results/dicom_fuzz.md.

    python benchmarks/dicom_fuzz.py [--cases 20000] [--write docs/results/dicom_fuzz.md]

Each case is one of pydicom's small test files with one to four mutations: flipped bytes, extreme lengths, sizes of
pixels that cannot be, numbers that are none, cuts and repeats. Case n is always the same: tests/imaging/fuzz_dicom.py.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "imaging"))
from fuzz_dicom import run_apart, seeds

STEP = 2500  # cases a process


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20000)
    parser.add_argument("--write", type=Path)
    options = parser.parse_args()
    outcomes, wrong, longest, peak, start = Counter[str](), list[str](), (0.0, ""), 0.0, 0.0
    for first in range(0, options.cases, STEP):
        report = run_apart(first, min(first + STEP, options.cases), seconds=600)
        outcomes.update(report.outcomes)
        wrong += report.wrong
        longest, peak, start = max(longest, tuple(report.longest)), max(peak, report.peak), max(start, report.start)
        print(f"{first + STEP}: {dict(outcomes)}, wrong {wrong}, longest {longest}, peak {peak:.0f} MiB", flush=True)
    load = ", ".join(f"{v:.1f}" for v in os.getloadavg())
    lines = [
        "# Broken DICOM files",
        "",
        f"`python benchmarks/dicom_fuzz.py --cases {options.cases}`: {options.cases} mutations of {len(seeds())} small"
        " test files of pydicom, seeds 0 on. Only a value, or one readable refusal, is right.",
        "",
        "| outcome | cases |",
        "|---|---|",
        *(f"| {name} | {count} |" for name, count in outcomes.most_common()),
        f"| **anything else** (another exception, a crash, a hang) | **{len(wrong)}** |",
        "",
        *(f"- {line}" for line in wrong),
        f"Longest single case: {longest[0]:.1f} s ({longest[1]}), with a load of {load} on {os.cpu_count()} cores;"
        " it includes the start of a new decoder process where a mutation made a decoder crash.",
        f"Peak resident memory of the reader or of its decoder: {peak:.0f} MiB, of which {start:.0f} MiB are Python"
        " and its libraries before the first case. No file is larger than 150 kB.",
    ]
    if options.write:
        options.write.parent.mkdir(parents=True, exist_ok=True)
        options.write.write_text("\n".join(lines) + "\n", encoding="utf-8")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
