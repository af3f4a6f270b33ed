"""ACDC cardiac MR to a dataset folder, with the split that published semi-supervised work uses.

    python data_prep/acdc.py ACDC --out datasets/acdc_3 --labelled 3

ACDC is either the public release (patientXXX/Info.cfg, patientXXX_frameYY.nii.gz and ..._gt.nii.gz, in or under
training/), or a flat folder with images/, labels/ and cases.csv (case, patient, split, train_order). The earlier of
the two labelled frames, end-diastole, becomes patientXXX_frame01, the later one patientXXX_frame02. The public release
is not included: reading it is shown on a generated tree of the same structure (tests/data_prep).
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
from pathlib import Path
from typing import Any

from medkd.data.dataset import Dataset
from medkd.errors import InputError
from medkd.runs.prepare import prepare

CLASSES = ("background", "rv", "myo", "lv")
# Patient numbers in the order in which published work takes labelled patients (the first 1, 3, 7, ... of train).
TRAIN = """
099 038 050 100 058 021 049 020 072 040 060 089 004 056 098 096 031 018 094 047 048 055 097 074 043 041 063 037 095 054
026 088 032 069 006 071 012 073 061 017 025 010 057 029 051 005 036 046 062 034 076 092 070 077 067 003 091 016 014 044
042 090 053 027 035 086 023 009 079 015""".split()
VAL = "028 085 082 087 019 030 078 045 002 039".split()
TEST = "011 013 084 033 093 022 068 024 083 081 080 001 007 066 008 065 075 064 059 052".split()


def prepare_acdc(source: Path, out: Path, labelled: int) -> Dataset:
    """Write the dataset folder `out` with the first `labelled` training patients labelled."""
    about = {
        "provenance": "ACDC, MICCAI 2017 (Bernard et al., IEEE TMI 2018); split of published semi-supervised work",
        "licence": "as ACDC's: research use; see its terms",
    }
    settings: dict[str, Any] = {"classes": CLASSES, "channels": ("mr",), "labelled": labelled, "about": about}
    if (source / "cases.csv").is_file():
        return prepare(source, out, table=source / "cases.csv", **settings)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "cases.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows(public_cases(source))
        return prepare(source, out, table=table, **settings)


def public_cases(source: Path) -> list[list[str]]:
    """The table of cases of the public release, header first: two frames a patient, with paths relative to `source`."""
    patients = {p.name.removeprefix("patient"): p for p in source.rglob("patient*") if (p / "Info.cfg").is_file()}
    rows, problems = [], []
    for split, numbers in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for rank, number in enumerate(numbers, start=1):
            if number not in patients:
                continue
            try:
                frames = sorted(frames_of(patients[number] / "Info.cfg"))
            except InputError as error:
                problems += error.problems
                continue
            for index, frame in enumerate(frames, start=1):
                stem = f"patient{number}_frame{frame:02d}"
                files = [next(patients[number].glob(f"{stem}{end}.nii*"), None) for end in ("", "_gt")]
                problems += [
                    f"patient{number}: no file for frame {frame:02d}{end}, which Info.cfg names"
                    for end, file in zip(("", "_gt"), files)
                    if file is None
                ]
                order = str(rank) if split == "train" else ""
                paths = [file.relative_to(source).as_posix() for file in files if file]
                rows.append([f"patient{number}_frame{index:02d}", f"patient{number}", split, order, *paths])
    if problems or not rows:
        raise InputError(problems or f"no patientXXX folder with Info.cfg, and no cases.csv, in {source}")
    return [["case", "patient", "split", "train_order", "image", "label"], *rows]


def frames_of(info: Path) -> list[int]:
    """The end-diastolic and end-systolic frame numbers of an Info.cfg (lines `ED: 1` and `ES: 12`)."""
    values = dict(line.split(":", 1) for line in info.read_text(errors="replace").splitlines() if ":" in line)
    try:
        return [int(values["ED"]), int(values["ES"])]
    except (KeyError, ValueError):
        raise InputError(f"{info.parent.name}/Info.cfg does not state ED and ES frame numbers") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", type=int, default=3)
    arguments = parser.parse_args()
    try:
        dataset = prepare_acdc(arguments.source, arguments.out, arguments.labelled)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    present = {c.patient for c in dataset.cases}
    print(f"{len(present)} patients, {len(dataset.cases)} cases")
    print(f"labelled for training: {', '.join(sorted({c.patient for c in dataset.select('train', labelled=True)}))}")
    if missing := [n for n in (*TRAIN, *VAL, *TEST) if f"patient{n}" not in present]:
        print(f"{len(missing)} patients of the published split are missing: do not compare with published numbers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
