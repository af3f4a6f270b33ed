"""From images and their classes to a checked dataset folder for classification: a folder a class, or a table.

Everything is checked before anything is written, and every problem comes in one list. What the source says of
unlabelled training images is not written.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medkd.data.classification_dataset import (
    ClassificationDataset,
    read_classification_dataset,
    write_classification_dataset,
)
from medkd.data.dataset import SPLITS, name_problems, read_table, write_whole
from medkd.data.image_cases import Unit
from medkd.errors import raise_all
from medkd.runs.prepare_images import (
    Item,
    Labelled,
    channels_of,
    check_image,
    find_items,
    image_folder,
    image_paths,
    named_cases,
    place,
    write_image,
)
from medkd.runs.prepare_names import open_names
from medkd.runs.prepare_source import Source
from medkd.runs.prepare_write import PROGRESS, Progress, check_out, each

UNLABELLED = "unlabelled"
"""A folder of this name holds images that nobody put into a class."""


@dataclass
class Classified:
    """What the source says of an image; label: "" where it does not say."""

    label: str
    split: str = ""
    patient: str = ""
    labelled: str = ""

    @property
    def annotated(self) -> bool:
        return bool(self.label)


def prepare_classification(
    source: Path,
    out: Path,
    *,
    table: Path | None = None,
    classes: tuple[str, ...] | None = None,
    split: tuple[float, ...] | None = None,
    labelled: Labelled = "all",
    seed: int = 0,
    patient_pattern: str | None = None,
    unit: Unit | None = None,
    key: Path | None = None,
    keep_identifiers: bool = False,
    allow_burned_in: bool = False,
    dry_run: bool = False,
    about: dict[str, str] | None = None,
    progress: Progress | None = None,
) -> ClassificationDataset:
    """Check images and classes and write the dataset folder `out`. Raises InputError that lists every problem.

    source: a folder that holds a folder a class (SOURCE/CLASS/..., and SOURCE/unlabelled/...); or, with `table`, a
    folder of images at any depth, or one with images/. table: CSV with image (path below the folder, or name) and label
    (empty: not known), and where known patient, split, labelled (yes, no). classes: their names in order; default:
    alphabetical. unit: what a patient of the table is; "image" where several of its images were cut from one.
    The rest is as in `prepare_detection`: split, labelled, seed, patient_pattern, key, keep_identifiers.
    """
    source, out = Path(source), Path(out)
    continues = check_out(out)
    folder = image_folder(source)
    stated = _from_table(table) if table else _from_folders(folder)
    of = "table" if table else "folders of classes"
    classes = classes or tuple(sorted({one.label for one in stated.values() if one.label}))
    problems = name_problems("class", classes)
    known = bool(patient_pattern) or any(one.patient for one in stated.values())
    unit = unit or ("patient" if known else "image")
    items = find_items(folder, stated, of, patient_pattern, unit, False, problems)
    for _ in each("check", lambda item: check_image(item, allow_burned_in), items, progress):
        pass
    if all(item.by_header for item in items):
        unit = "patient"
    for item in items:
        if (label := _label(item)) and label not in classes:
            item.problems.append(f"class {label!r}; allowed: {', '.join(classes)}")
        problems += [f"image {item.name}: {problem}" for problem in item.problems]
    channels = channels_of(items, problems)
    drawn = place(items, split, labelled, seed, of, problems)
    seen = Counter(_label(item) for item in items if item.labelled and item.split == "train")
    if missing := [name for name in classes if not seen[name]]:
        problems.append(
            f"no labelled training image is of the class {', '.join(missing)}; label more, or give another seed"
        )
    raise_all(problems)
    names = open_names(Source(), out, key, keep_identifiers, continues)
    pairs = named_cases(out, items, names)
    labels = {case.id: classes.index(_label(item)) for case, item in pairs if case.open_to_training}
    dataset = ClassificationDataset(out, channels, classes, unit, tuple(case for case, _ in pairs), labels)
    if dry_run:
        return dataset
    (out / "images").mkdir(parents=True, exist_ok=True)
    if names.key:
        names.key.save()
    write_whole(out / PROGRESS, json.dumps({"work": dataset.fingerprint}))
    for _ in each("write", write_image, pairs, progress):
        pass
    decisions = {"classes": f"from the {of}", **drawn, "unit": unit}
    write_whole(out / "report.json", json.dumps(_report(dataset, decisions), indent=1, default=str))
    write_classification_dataset(dataset, about or {})
    (out / PROGRESS).unlink()
    return read_classification_dataset(out)


def _from_table(path: Path) -> dict[str, Classified]:
    rows = read_table(path, ("image", "label"))
    twice = [name for name, n in Counter(row["image"] for row in rows).items() if n > 1]
    raise_all([f"image {name!r} is listed twice in {path.name}; keep one row" for name in twice])
    return {
        row["image"]: Classified(row["label"], *(row.get(key, "") for key in ("split", "patient", "labelled")))
        for row in rows
    }


def _from_folders(folder: Path) -> dict[str, Classified]:
    """The class of an image is the folder it lies in, the first below `folder`."""
    paths = [path.relative_to(folder) for path in image_paths(folder)]
    raise_all([
        f"image {path} lies in no folder of a class; move it to CLASS/{path.name}, or give --table"
        for path in paths if len(path.parts) < 2
    ])  # fmt: skip
    return {path.as_posix(): Classified("" if path.parts[0] == UNLABELLED else path.parts[0]) for path in paths}


def _label(item: Item) -> str:
    return item.said.label if isinstance(item.said, Classified) else ""


def _report(dataset: ClassificationDataset, decisions: dict[str, Any]) -> dict[str, Any]:
    """report.json: images of each class in each split, and what was decided."""
    counts = {
        f"{name} ({split})": sum(dataset.labels.get(case.id) == k for case in dataset.select(split))
        for k, name in enumerate(dataset.classes)
        for split in SPLITS
    }
    return {
        "cases": len(dataset.cases),
        "splits": {name: len(dataset.select(name)) for name in SPLITS},
        "labelled": len(dataset.select("train", labelled=True)),
        "images of each class": counts,
        "changed": "pictures keep their pixels to the last bit and lose EXIF, comments and other text",
        "decisions": decisions,
    }
