"""Boxes as others store them: COCO JSON, a folder of Pascal VOC XML, or CSV. Read, never trusted.

Coordinates come out continuous (voxel i covers [i, i + 1)), low corner then high. VOC counts pixels from 1 and includes
the last: 1 is subtracted from xmin and ymin. Tools that write VOC from 0 betray themselves by a 0 somewhere; all files
of such a folder are then taken as they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree
from xml.parsers import expat

from medkd.errors import InputError

CORNERS_2D = ("xmin", "ymin", "xmax", "ymax")
CORNERS_3D = ("xmin", "ymin", "zmin", "xmax", "ymax", "zmax")
LARGEST_XML = 4 << 20  # bytes


@dataclass
class Annotated:
    """What a file says of one image. boxes: (class name, corners). size: (width, height) if stated. split, patient,
    labelled: "" if not stated. An image that is listed without a box was looked at and holds nothing."""

    image: str
    boxes: list[tuple[str, tuple[float, ...]]] = field(default_factory=list)
    size: tuple[int, int] | None = None
    split: str = ""
    patient: str = ""
    labelled: str = ""

    @property
    def annotated(self) -> bool:
        return True


@dataclass
class BoxFile:
    """All images of a source of boxes, what is wrong with it, and what had to be assumed."""

    images: dict[str, Annotated] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    classes: tuple[str, ...] = ()

    def add(self, image: str) -> Annotated:
        return self.images.setdefault(image, Annotated(image))


def read_box_file(path: Path) -> BoxFile:
    """Boxes by the kind of `path`: .json (COCO), .csv, or a folder of .xml (VOC). Raises InputError if it is none."""
    if path.is_dir():
        found = _read_voc(sorted(p for p in path.rglob("*.xml") if not p.name.startswith(".")), path)
    elif path.suffix.lower() == ".json":
        found = _read_coco(path)
    elif path.suffix.lower() == ".csv":
        found = _read_csv(path)
    else:
        raise InputError(f"boxes are read from a COCO .json, a .csv, or a folder of VOC .xml; {path} is none of these")
    if not found.images and not found.problems:
        raise InputError(f"{path} lists no image")
    found.classes = found.classes or tuple(sorted({name for one in found.images.values() for name, _ in one.boxes}))
    return found


def _read_csv(path: Path) -> BoxFile:
    """image, label, xmin, ymin, xmax, ymax (in 3-D also zmin, zmax); where known width, height, split, patient,
    labelled. A row with an empty label lists an image without a box."""
    found = BoxFile()
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            columns = set(rows.fieldnames or ())
            corners = CORNERS_3D if "zmin" in columns else CORNERS_2D
            if missing := [name for name in ("image", "label", *corners) if name not in columns]:
                raise InputError(f"{path} lacks the columns {', '.join(missing)} (separated by commas)")
            for line, row in enumerate(rows, 2):
                _csv_row(found, {k: (v or "").strip() for k, v in row.items() if k}, corners, f"line {line}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path} cannot be read as CSV in UTF-8: {error}") from None
    return found


def _csv_row(found: BoxFile, row: dict[str, str], corners: Iterable[str], line: str) -> None:
    if not row["image"]:
        found.problems.append(f"{line}: image is empty")
        return
    one = found.add(row["image"])
    for name in ("split", "patient", "labelled"):
        before, now = getattr(one, name), row.get(name, "")
        if before and now and before != now:
            found.problems.append(f"{line}: {name} of {one.image} is {now!r}, and {before!r} further up")
        setattr(one, name, before or now)
    try:
        if row.get("width") and row.get("height"):
            one.size = int(float(row["width"])), int(float(row["height"]))
        if row["label"]:
            one.boxes.append((row["label"], tuple(float(row[name]) for name in corners)))
        elif any(row[name] for name in corners):
            found.problems.append(f"{line}: a box without a label")
    except ValueError as error:
        found.problems.append(f"{line}: {error}; numbers are needed")


def _read_coco(path: Path) -> BoxFile:
    found = BoxFile()
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        categories = {kind["id"]: str(kind["name"]) for kind in content["categories"]}
        images = {image["id"]: image for image in content["images"]}
        rows = list(content["annotations"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is not COCO JSON (images, annotations, categories): {error!r}") from None
    found.classes = tuple(categories[number] for number in sorted(categories))
    for image in images.values():
        one = found.add(str(image.get("file_name") or ""))
        if not one.image:
            found.problems.append(f"image {image.get('id')!r} has no file_name")
        if image.get("width") and image.get("height"):
            one.size = int(image["width"]), int(image["height"])
        one.split, one.patient = (str(image.get(name) or "") for name in ("split", "patient"))
    for row in rows:
        where = f"annotation {row.get('id')!r}"
        try:
            box = [float(v) for v in row["bbox"]]
            image, kind = images[row["image_id"]], categories[row["category_id"]]
        except (KeyError, TypeError, ValueError) as error:
            found.problems.append(f"{where}: {error!r} (bbox, image_id of an image, category_id of a category)")
            continue
        if row.get("iscrowd"):
            found.problems.append(f"{where}: iscrowd regions are not one object each; leave them out")
        elif len(box) not in (4, 6):
            found.problems.append(f"{where}: bbox holds {len(box)} numbers; 4, or 6 in 3-D, are needed")
        else:
            dims = len(box) // 2
            high = [low + extent for low, extent in zip(box[:dims], box[dims:])]
            found.images[str(image.get("file_name") or "")].boxes.append((kind, (*box[:dims], *high)))
    return found


def _read_voc(files: list[Path], folder: Path) -> BoxFile:
    found = BoxFile()
    if not files:
        raise InputError(f"no .xml file of boxes in {folder}")
    for path in files:
        try:
            root = parse_xml(path)
            name = (root.findtext("filename") or "").strip() or path.stem
            one = found.add(Path(name).name)
            width, height = root.findtext("size/width"), root.findtext("size/height")
            if width and height:
                one.size = int(width), int(height)
            for item in root.iter("object"):
                corners = [float(item.findtext(f"bndbox/{corner}") or "nan") for corner in CORNERS_2D]
                one.boxes.append(((item.findtext("name") or "").strip(), tuple(corners)))
        except (InputError, ValueError) as error:
            found.problems.append(f"{path.name}: {error}")
    from_zero = any(min(corners[:2]) <= 0 for one in found.images.values() for _, corners in one.boxes)
    if from_zero:
        found.notes.append("VOC files that hold a 0 count from 0: their corners are taken as they are")
    else:
        found.notes.append("VOC counts pixels from 1: 1 is subtracted from xmin and ymin")
        for one in found.images.values():
            one.boxes = [(name, (x0 - 1, y0 - 1, x1, y1)) for name, (x0, y0, x1, y1) in one.boxes]
    return found


def parse_xml(path: Path) -> ElementTree.Element:
    """The root of an XML file from outside. A document type, and with it every entity, is refused: so no file can grow
    in memory or name another file. Raises InputError."""
    content = path.read_bytes()
    if len(content) > LARGEST_XML:
        raise InputError(f"{len(content)} bytes of XML are more than a file of boxes needs")

    def refuse(*_: object) -> None:
        raise InputError("its XML declares a document type or an entity; such files are not read")

    check = expat.ParserCreate()
    check.StartDoctypeDeclHandler = refuse
    check.EntityDeclHandler = refuse
    try:
        check.Parse(content, True)
        return ElementTree.fromstring(content)
    except (expat.ExpatError, ElementTree.ParseError, LookupError) as error:
        raise InputError(f"it is not XML: {error}") from None
