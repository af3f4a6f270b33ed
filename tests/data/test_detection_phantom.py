"""The generated domains: seeded, with boxes on bright things, and really shifted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medkd.data.detection_phantom import CLASSES, SPACING, Kind, mammogram, nodules, write_phantom
from medkd.data.smear_phantom import smear
from medkd.metrics.matching import box_iou
from medkd.runs.prepare_detection import prepare_detection


@pytest.mark.parametrize("make", [mammogram, nodules])
def test_boxes_lie_on_bright_things(make) -> None:  # type: ignore[no-untyped-def]
    """The middle of a box is brighter than the ring of tissue around it, in both domains."""
    for domain in ("source", "target"):
        contrast = []
        for seed in range(12):
            image, boxes = make(np.random.default_rng(seed), domain)[:2]
            dims = image.ndim
            for box in boxes:
                low, high = (box[:dims], box[dims:]) if dims == 3 else (box[:2][::-1], box[2:][::-1])
                centre, half = (low + high) / 2, (high - low) / 2
                inner = tuple(slice(int(c - h / 3), int(c + h / 3) + 1) for c, h in zip(centre, half))
                outer = tuple(slice(max(0, int(c - 1.5 * h)), int(c + 1.5 * h)) for c, h in zip(centre, half))
                contrast.append((image[inner].mean() - image[outer].mean()) / image.std())
        assert len(contrast) > 6
        assert np.mean(contrast) > 0.2


def test_the_target_is_another_domain() -> None:
    source, target = (
        np.stack([mammogram(np.random.default_rng(s), d)[0] for s in range(8)])  # type: ignore[arg-type]
        for d in ("source", "target")
    )
    assert target.mean() > 1.2 * source.mean()
    outside = [np.std(images[:, :20, -20:]) for images in (source, target)]
    assert outside[1] > 1.5 * outside[0]


def test_seeded() -> None:
    for one, other in zip(*(nodules(np.random.default_rng(3), "source") for _ in range(2))):
        np.testing.assert_array_equal(one, other)


def test_nodules_are_balls_in_mm_and_ground_glass_is_faint() -> None:
    contrast: dict[int, list[float]] = {0: [], 1: []}
    for seed in range(30):
        image, boxes, labels = nodules(np.random.default_rng(seed), "source")
        for box, label in zip(boxes, labels):
            sides = (box[3:] - box[:3]) * SPACING
            np.testing.assert_allclose(sides, sides[0], atol=0.05)
            x, y, z = ((box[:3] + box[3:]) / 2).astype(int)
            contrast[int(label)].append(float(image[x - 1 : x + 2, y - 1 : y + 2, z].mean()))
    assert len(contrast[0]) > 1.4 * len(contrast[1]) > 10
    assert np.mean(contrast[0]) > np.mean(contrast[1]) + 200


def test_cells_do_not_overlap_and_the_stain_is_another() -> None:
    colours = []
    for shifted in (False, True):
        image, boxes, labels = smear(np.random.default_rng(5), shifted)
        overlap = box_iou(boxes, boxes) - np.eye(len(boxes))
        assert overlap.max() < 0.2  # boxes of discs that do not touch share a corner at most
        assert (boxes >= 0).all()
        assert len(boxes) == len(labels) > 6
        colours.append(image.mean((0, 1)))
    assert np.abs(colours[0] - colours[1]).max() > 25


def test_the_rare_cells_differ_by_their_nucleus() -> None:
    dark: dict[int, list[float]] = {0: [], 1: [], 2: []}
    for seed in range(40):
        image, boxes, labels = smear(np.random.default_rng(seed), False)
        for (x0, y0, x1, y1), label in zip(boxes.astype(int), labels):
            dark[int(label)].append(float((image[y0:y1, x0:x1, 1] < 110).mean()))
    assert len(dark[0]) > 4 * len(dark[1]) > 4 * len(dark[2]) > 20
    assert np.mean(dark[0]) < 0.02 < np.mean(dark[1]) < np.mean(dark[2])


@pytest.mark.parametrize("kind", CLASSES)
def test_prepare_takes_it(tmp_path: Path, kind: Kind) -> None:
    write_phantom(tmp_path / "in", "target", (3, 1, 2), kind)
    data = prepare_detection(
        tmp_path / "in", tmp_path / "out", boxes=tmp_path / "in" / "boxes.csv", labelled="none", keep_identifiers=True,
        classes=CLASSES[kind],
    )  # fmt: skip
    assert [len(data.select(s)) for s in ("train", "val", "test")] == [3, 1, 2]
    assert data.cases[0].dims == (3 if kind == "nodules" else 2)
    assert data.cases[0].spacing == (SPACING if kind == "nodules" else None)
    assert data.channels == (("red", "green", "blue") if kind == "smears" else ("image",))
