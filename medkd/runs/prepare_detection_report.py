"""The page of a detection dataset: what was read, how many boxes of each class there are, images with their boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medkd.data.dataset import SPLITS
from medkd.data.detection_dataset import Boxes, DetectionDataset
from medkd.data.image_cases import ImageCase
from medkd.data.image_preprocess import read_pixels
from medkd.report.detections import Boxed, detection_sheet
from medkd.report.page import Page
from medkd.runs.prepare_report import words

PICTURED = 24  # images, spread over all
A_SHEET = 12
LONGEST = 400  # pixels of a thumbnail


def write_detection_page(dataset: DetectionDataset, report: dict[str, Any], hidden: int, private: bool) -> Path:
    """Write DATASET/report.html, once the images lie there. hidden: unlabelled images whose boxes are kept apart; they
    are counted and not drawn. private: whether names are keyed hashes. Returns the path."""
    units = len({c.patient for c in dataset.cases}) if dataset.unit == "patient" else None
    page = Page("Dataset", f"{len(dataset.cases)} images" + (f" of {units} patients" if units else ""))
    shapes = [" × ".join(map(str, s)) for s in sorted({c.shape for c in dataset.cases}, key=lambda s: (np.prod(s), s))]
    page.facts(
        {
            "images": ", ".join(f"{len(dataset.select(name))} {name}" for name in SPLITS),
            "training images with labels": len(dataset.select("train", labelled=True)),
            "unlabelled training images whose boxes are kept apart": hidden,
            "split and scores are by": dataset.unit,
            "channels": ", ".join(dataset.channels),
            "sizes (rows × columns, or X × Y × Z)": shapes[0] if len(shapes) == 1 else f"{shapes[0]} to {shapes[-1]}",
            "images of another size than most": len(dataset.cases) - most_common(dataset),
            **{name: words(value) for name, value in report["decisions"].items()},
        }
    )
    if private:
        page.text(
            "Names of patients and images are keyed hashes. Which is which stands in the private key file, which lies "
            "outside this folder: keep it, and do not pass it on."
        )
    page.section("Boxes")
    page.table(
        *box_table(dataset),
        "Boxes that may be read. Side: of the smallest, the middle and the largest box, the root of the area in 2-D.",
    )
    page.section("Images")
    page.text("Look at them: boxes that are shifted, flipped or of the wrong class are seen here first.")
    shown = [boxed(dataset, case) for case in spread(dataset.cases)]
    for start in range(0, len(shown), A_SHEET):
        part = shown[start : start + A_SHEET]
        page.picture(detection_sheet(part, dataset.classes), "Boxes of the labels are dashed.", f"{len(part)} images")
    page.text(f"In every file: {report['changed']}.")
    path = dataset.root / "report.html"
    page.write(path)
    return path


def box_table(dataset: DetectionDataset) -> tuple[list[str], list[list[object]]]:
    """A row a class: boxes and images that hold one, by split; the side of the smallest, middle and largest box."""
    headers = ["class", *(f"{what}, {name}" for name in SPLITS for what in ("boxes", "images")), "side, pixels"]
    rows = []
    for label, name in enumerate(dataset.classes):
        row: list[object] = [name]
        sides: list[np.ndarray] = []
        for split in SPLITS:
            open_ = [dataset.boxes[c.id] for c in dataset.select(split) if c.id in dataset.boxes]
            mine = [b.boxes[b.labels == label] for b in open_]
            row += [sum(map(len, mine)), sum(len(b) > 0 for b in mine)]
            sides += [mean_side(b) for b in mine]
        every = np.concatenate(sides) if sides else np.zeros(0)
        text = f"{every.min():.0f} / {np.median(every):.0f} / {every.max():.0f}" if len(every) else "no box"
        rows.append([*row, text])
    return headers, rows


def mean_side(boxes: np.ndarray) -> np.ndarray:
    """(N,) the geometric mean of the sides of boxes (N, 2 * D)."""
    dims = boxes.shape[1] // 2
    sides: np.ndarray = (boxes[:, dims:] - boxes[:, :dims]).astype(np.float64).prod(1) ** (1 / dims)
    return sides


def most_common(dataset: DetectionDataset) -> int:
    """How many images have the most common size."""
    shapes = [case.shape for case in dataset.cases]
    return max(shapes.count(shape) for shape in set(shapes))


def spread(cases: tuple[ImageCase, ...]) -> list[ImageCase]:
    """PICTURED cases at even distances."""
    return [cases[i] for i in np.linspace(0, len(cases) - 1, min(PICTURED, len(cases))).round().astype(int)]


def boxed(dataset: DetectionDataset, case: ImageCase) -> Boxed:
    """An image, small, with the boxes that may be read; of a volume the slice of z through its first box's middle."""
    known = dataset.boxes.get(case.id)
    pixels = read_pixels(case.image)
    boxes, labels = (known.boxes, known.labels) if known else (None, None)
    if case.dims == 3:
        pixels, boxes, labels = through(pixels, known)
    step = max(1, -(-max(pixels.shape[:2]) // LONGEST))
    note = "" if known is None else f"{len(known)} box" + "es" * (len(known) != 1)
    small = np.ascontiguousarray(pixels[::step, ::step])
    return Boxed(case.id, small, None if boxes is None else boxes / step, labels, note=f"{case.split} {note}".strip())


def through(volume: np.ndarray, known: Boxes | None) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
    """The slice (rows y, columns x) of a volume (X, Y, Z), its boxes as x0, y0, x1, y1 and their labels."""
    z = volume.shape[2] // 2
    if known is None or not len(known):
        return volume[:, :, z].T, None if known is None else np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    z = int((known.boxes[0, 2] + known.boxes[0, 5]) / 2)
    met = (known.boxes[:, 2] < z + 1) & (known.boxes[:, 5] > z)
    return volume[:, :, z].T, known.boxes[met][:, [0, 1, 3, 4]], known.labels[met]
