"""The generated domains: seeded, with boxes on bright things, and really shifted."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from medkd.data.detection_phantom import NODULES, SPACING, mammogram, nodules, write_phantom
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


@pytest.mark.parametrize("dims", [2, 3])
def test_prepare_takes_it(tmp_path: Path, dims: int) -> None:
    write_phantom(tmp_path / "in", "target", (3, 1, 2), dims)  # type: ignore[arg-type]
    data = prepare_detection(
        tmp_path / "in", tmp_path / "out", boxes=tmp_path / "in" / "boxes.csv", labelled="none", keep_identifiers=True,
        classes=NODULES if dims == 3 else None,
    )  # fmt: skip
    assert [len(data.select(s)) for s in ("train", "val", "test")] == [3, 1, 2]
    assert data.classes == (("mass",) if dims == 2 else NODULES)
    assert data.cases[0].spacing == (None if dims == 2 else SPACING)
    assert data.cases[0].dims == dims
