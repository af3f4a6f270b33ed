"""INbreast to a dataset folder for detection: boxes around the outlined masses.

    python data_prep/inbreast.py INBREAST --out datasets/inbreast [--labelled none]

INBREAST holds AllDICOMs/*.dcm (NUMBER_PATIENT_MG_R_CC_ANON.dcm) and AllXML/NUMBER.xml, property lists of outlines. The
data are not public any more; reading them is shown on a generated tree of the published structure (tests/data_prep).
Images without an outlined mass count as images without a box.
"""

from __future__ import annotations

import argparse
import csv
import plistlib
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from medkd.data.detection_dataset import DetectionDataset
from medkd.errors import InputError
from medkd.runs.prepare_detection import Labelled, prepare_detection

SHARES = (0.7, 0.1, 0.2)
HEAD = ["image", "patient", "label", "xmin", "ymin", "xmax", "ymax"]


def prepare_inbreast(source: Path, out: Path, labelled: Labelled = "all", seed: int = 0) -> DetectionDataset:
    """Write the dataset folder `out`, split by patient."""
    images = sorted((source / "AllDICOMs").glob("*.dcm"))
    if not images:
        raise InputError(f"no AllDICOMs/*.dcm in {source}; give the folder of INbreast")
    problems: list[str] = []
    rows: list[list[Any]] = []
    for path in images:
        number, _, rest = path.stem.partition("_")
        patient = rest.partition("_")[0]
        if not patient:
            problems.append(f"{path.name}: a name NUMBER_PATIENT_MG_... is needed")
        outlines = source / "AllXML" / f"{number}.xml"
        try:
            boxes = mass_boxes(outlines) if outlines.is_file() else []
        except InputError as error:
            problems += error.problems
            continue
        rows += [[path.name, patient, "mass", *box] for box in boxes] or [[path.name, patient, "", "", "", "", ""]]
    if problems:
        raise InputError(problems)
    with tempfile.TemporaryDirectory() as folder:
        table = Path(folder) / "boxes.csv"
        with table.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([HEAD, *rows])
        about = {"provenance": "INbreast (Moreira et al., Academic Radiology 2012)", "licence": "as INbreast's"}
        return prepare_detection(
            source / "AllDICOMs", out, boxes=table, classes=("mass",), split=SHARES, labelled=labelled, seed=seed,
            about=about,
        )  # fmt: skip


def mass_boxes(path: Path) -> list[tuple[float, float, float, float]]:
    """The boxes around the outlines named Mass. The points are pixel centres: a box ends half a pixel beyond them."""
    try:
        content = plistlib.loads(path.read_bytes(), fmt=plistlib.FMT_XML)  # it refuses entities
        outlines = [roi for image in content["Images"] for roi in image["ROIs"]]
        found = []
        for roi in outlines:
            if str(roi.get("Name", "")).strip().lower() != "mass":
                continue
            points = [[float(v) for v in re.findall(r"-?\d+\.?\d*", text)] for text in roi["Point_px"]]
            x, y = [p[0] for p in points], [p[1] for p in points]
            found.append((max(min(x) - 0.5, 0), max(min(y) - 0.5, 0), max(x) + 0.5, max(y) + 0.5))
        return found
    except Exception as error:  # a property list fails in many ways
        raise InputError(f"{path.name} is not a list of outlines: {error!r}") from None


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--labelled", choices=("all", "none"), default="all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    try:
        dataset = prepare_inbreast(arguments.source, arguments.out, arguments.labelled, arguments.seed)
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    print(", ".join(f"{split} {len(dataset.select(split))}" for split in ("train", "val", "test")))
    return 0


if __name__ == "__main__":
    sys.exit(main())
