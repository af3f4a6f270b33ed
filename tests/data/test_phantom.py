from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from medkd.data.phantom import PhantomOptions, generate_patient, write_cohort
from medkd.imaging.nifti import read_nifti


def patient(seed: int, **values: object) -> tuple[np.ndarray, np.ndarray]:
    return generate_patient(np.random.default_rng(seed), **values)


@pytest.mark.parametrize("seed", range(6))
def test_every_class_and_a_closed_ring(seed: int) -> None:
    image, label = patient(seed)
    assert image.dtype == np.int16
    assert set(np.unique(label)) == {0, 1, 2, 3}
    for z in range(label.shape[2]):
        lv = label[..., z] == 3
        around = ndimage.binary_dilation(lv) & ~lv
        assert set(np.unique(label[..., z][around])) == {2}  # the myocardium encloses the left ventricle


def test_a_seed_is_a_patient() -> None:
    assert np.array_equal(patient(3)[0], patient(3)[0])
    assert not np.array_equal(patient(3)[1], patient(4)[1])


def spread(width: float) -> dict[str, float]:
    """Standard deviation over patients of size, position and contrast."""
    rows = []
    for seed in range(60):
        image, label = patient(seed, width=width)
        heart = label > 0
        x, y, _ = np.nonzero(heart)
        brightness = image[label == 3].mean() / max(image[label == 0].mean(), 1)
        rows.append([heart.mean(), x.mean(), y.mean(), brightness])
    return dict(zip(("size", "x", "y", "contrast"), np.std(rows, axis=0)))


def test_labelled_patients_are_narrower() -> None:
    narrow, wide = spread(0.3), spread(1.0)
    for name, value in narrow.items():
        assert value < 0.7 * wide[name], name


def test_the_cohort_on_disk(tmp_path: Path) -> None:
    options = PhantomOptions(labelled=1, unlabelled=2, validation=1, test=1, size=32, slices=(3, 4))
    write_cohort(tmp_path, options)
    with (tmp_path / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(r["split"], r["labelled"]) for r in rows] == [
        ("train", "yes"), ("train", "no"), ("train", "no"), ("val", "yes"), ("test", "yes"),
    ]  # fmt: skip
    for row in rows:
        image = read_nifti(tmp_path / "images" / f"{row['case']}.nii.gz")
        label = read_nifti(tmp_path / "labels" / f"{row['case']}.nii.gz")
        assert image.shape == label.shape
        assert 3 <= image.shape[2] <= 4
        assert np.allclose(image.spacing, (1.5, 1.5, 8))
        assert np.array_equal(image.affine, label.affine)
    affines = [read_nifti(p).affine for p in sorted((tmp_path / "images").iterdir())]
    assert not np.allclose(affines[0], affines[1])
