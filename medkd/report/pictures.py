"""Pictures of images and their labels, as PNG bytes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.colors import to_rgba
from matplotlib.patches import Patch

from medkd.errors import InputError, raise_all
from medkd.report.colours import DISAGREEMENT, class_colour, class_line, grey, grey_limits
from medkd.report.figures import FAINT, SMALL, png, sheet, shorten
from medkd.report.panels import outline, show, show_disagreement
from medkd.report.slices import CONVENTION, Plane, Slice, best_slice, cut

__all__ = ["Pasted", "Slice", "batch_grid", "best_slice", "composites", "cut", "overlay_grid"]

TALLEST = 1.5  # a panel's height over its width; taller slices are drawn smaller
SHOWN = 16  # samples of a batch


def overlay_grid(rows: Sequence[Slice], classes: Sequence[str]) -> bytes:
    """A row a slice: image, image with truth, image with prediction, and where the two disagree.

    classes: names, [0] is the background. A column that no row can fill is left out. Raises InputError without rows.
    """
    if not rows:
        raise InputError("no slice to draw; give overlay_grid at least one")
    with_truth, with_prediction = any(r.truth is not None for r in rows), any(r.prediction is not None for r in rows)
    both = with_truth and with_prediction
    headings = ["image", *["truth"] * with_truth, *["prediction"] * with_prediction, *["disagreement"] * both]
    labels = [label for row in rows for label in (row.truth, row.prediction) if label is not None]
    legends = [("classes", class_entries(labels, classes))] if labels else []
    if both:
        legends.append(("disagreement", [Patch(color=colour, label=name) for name, colour in DISAGREEMENT.values()]))
    figure, axes = sheet(
        [_ratio(row.size) for row in rows], [(row.case, _subtitle(row)) for row in rows], headings, legends,
        display_convention({row.plane for row in rows}), panel=2.2,
    )  # fmt: skip
    for row, panels in zip(rows, axes):
        shades = grey(row.image, grey_limits(row.image))
        for heading, ax in zip(headings, panels):
            if heading == "image":
                show(ax, shades, row.size)
            elif heading == "disagreement":
                show_disagreement(ax, shades, row)
            else:
                show(ax, shades, row.size, row.truth if heading == "truth" else row.prediction, f"no {heading}")
    return png(figure)


@dataclass(frozen=True)
class Pasted:
    """One labelled and one unlabelled image (H, W) of a copy-paste, and the mask both directions share.

    label, pseudo: class indices. mask: bool, True where the host survives, False where the guest is pasted.
    """

    labelled_case: str
    labelled: np.ndarray
    label: np.ndarray
    unlabelled_case: str
    unlabelled: np.ndarray
    pseudo: np.ndarray
    mask: np.ndarray


def composites(
    panels: Sequence[Pasted], classes: Sequence[str], spacing: tuple[float, float] = (1, 1), plane: Plane = "axial"
) -> bytes:
    """A row a pair: the labelled image, the unlabelled one with its pseudo-label, and both composites with the labels
    they are trained on (card bcp.md 3.1); the mask is outlined. Raises InputError without panels or on odd shapes."""
    if not panels:
        raise InputError("no pair to draw; give composites at least one")
    problems = []
    for number, p in enumerate(panels):
        shapes = {a.shape for a in (p.labelled, p.label, p.unlabelled, p.pseudo, p.mask)}
        if len(shapes) > 1 or p.labelled.ndim != 2:
            problems.append(f"pair {number}: shapes {sorted(shapes)}; all five arrays must be one (H, W)")
    raise_all(problems)
    sizes = [(p.mask.shape[0] * spacing[0], p.mask.shape[1] * spacing[1]) for p in panels]
    headings = ["labelled", "unlabelled, pseudo-label", "labelled in unlabelled", "unlabelled in labelled"]
    entries = class_entries([a for p in panels for a in (p.label, p.pseudo)], classes)
    border = Patch(facecolor="none", edgecolor=FAINT, linestyle="dashed", label="border of the pasted patch")
    figure, axes = sheet(
        [_ratio(size) for size in sizes],
        [("", f"labelled: {p.labelled_case}   unlabelled: {p.unlabelled_case}") for p in panels],
        headings, [("classes", entries), ("mask", [border])], display_convention({plane}), panel=2.2,
    )  # fmt: skip
    for p, size, row in zip(panels, sizes, axes):
        limits = grey_limits(p.labelled, p.unlabelled)  # one window: the seam between the two is real
        pairs = [
            (p.labelled, p.label),
            (p.unlabelled, p.pseudo),
            (np.where(p.mask, p.unlabelled, p.labelled), np.where(p.mask, p.pseudo, p.label)),
            (np.where(p.mask, p.labelled, p.unlabelled), np.where(p.mask, p.label, p.pseudo)),
        ]
        for (image, label), ax in zip(pairs, row):
            show(ax, grey(image, limits), size, label)
            outline(ax, ~p.mask.astype(bool), size, "black", "solid", 2.2)
            outline(ax, ~p.mask.astype(bool), size, "white", "dashed", 1.1)
    return png(figure)


def batch_grid(
    images: np.ndarray,
    labels: np.ndarray | None,
    titles: Sequence[str],
    classes: Sequence[str] = (),
    plane: Plane = "axial",
) -> bytes:
    """The images (B, H, W) of a batch with their labels (B, H, W), if any, drawn in; `titles` of every image.

    The network sees what is drawn: pixels are square here. At most 16 are drawn. Raises InputError on an empty batch.
    """
    if images.ndim != 3 or 0 in images.shape:
        raise InputError(f"the batch has shape {images.shape}; batch_grid draws slices (B, H, W), at least one")
    if (labels is not None and labels.shape != images.shape) or len(titles) != len(images):
        shape = None if labels is None else labels.shape
        raise InputError(f"{images.shape} images, {shape} labels, {len(titles)} titles; their numbers must agree")
    count = min(len(images), SHOWN)
    columns = min(count, 4)
    lines = math.ceil(count / columns)
    size = (float(images.shape[1]), float(images.shape[2]))
    legends = [] if labels is None else [("classes", class_entries(list(labels[:count]), classes))]
    more = f"First {count} of {len(images)} samples. " if count < len(images) else ""
    caption = f"{more}As the network sees them, after augmentation; without it, {display_convention({plane})}"
    # a blank row title leaves the room where every panel carries its own
    figure, axes = sheet([_ratio(size)] * lines, [(" ", "")] * lines, [""] * columns, legends, caption, panel=1.9)
    panels = [ax for row in axes for ax in row]
    for number, ax in enumerate(panels[:count]):
        shades = grey(images[number], grey_limits(images[number]))
        show(ax, shades, size, None if labels is None else labels[number])
        ax.set_title(shorten(titles[number], 1.85, SMALL), size=SMALL, pad=3, parse_math=False)
    return png(figure)


def class_entries(labels: Iterable[np.ndarray], classes: Sequence[str]) -> list[Patch]:
    """Legend entries: every named class, or without names the classes that occur."""
    found = sorted({int(value) for label in labels for value in np.unique(label) if value > 0})
    indices = range(1, len(classes)) if classes else found
    strange = [value for value in found if classes and value >= len(classes)]
    if strange:
        raise InputError(f"labels hold {strange}, but there are {len(classes)} classes: {', '.join(classes)}")
    return [
        Patch(
            facecolor=to_rgba(class_colour(i), 0.5), edgecolor=class_colour(i), linestyle=class_line(i),  # type: ignore[arg-type]
            linewidth=1.2, label=classes[i] if classes else f"class {i}",
        )
        for i in indices
    ]  # fmt: skip


def _ratio(size: tuple[float, float]) -> float:
    return min(size[1] / size[0], TALLEST)


def _subtitle(row: Slice) -> str:
    dice = [f"{name} {'undefined' if math.isnan(v) else f'{v:.3f}'}" for name, v in (row.dice or {}).items()]
    return " · ".join(part for part in (row.note, f"Dice of the case: {', '.join(dice)}" if dice else "") if part)


def display_convention(planes: set[Plane]) -> str:
    """The display convention in words, one a plane."""
    return "; ".join(f"{plane}: {CONVENTION[plane]}" for plane in sorted(planes)) + "."
