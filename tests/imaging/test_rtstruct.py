"""RTSTRUCT contours against shapes whose voxels are known, on any grid."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydicom.data import get_testdata_file
from skimage.measure import points_in_poly
from synthetic_labels import AXES, oblique, turned, write_structures

from medkd.errors import InputError
from medkd.imaging.dicom.polygons import fill
from medkd.imaging.dicom.rtstruct import Raster, Structure, raster, read_structures
from medkd.imaging.geometry import Moved

SHAPE = (24, 20, 5)
GRID = Moved(oblique(), SHAPE)


def world(corners: np.ndarray, z: float, affine: np.ndarray = GRID.affine) -> np.ndarray:
    """Corners (n, 2) in voxels of slice z as points in RAS mm."""
    voxels = np.column_stack([corners, np.full(len(corners), z), np.ones(len(corners))])
    return (voxels @ affine.T)[:, :3]


def rectangle(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], float)


def circle(x: float, y: float, radius: float, n: int = 720) -> np.ndarray:
    angle = np.linspace(0, 2 * np.pi, n, endpoint=False)
    return np.column_stack([x + radius * np.cos(angle), y + radius * np.sin(angle)])


def through_file(path: Path, contours: list[np.ndarray], grid: Moved = GRID) -> Raster:
    write_structures(path / "rs.dcm", {"liver": contours})
    return raster(read_structures(path / "rs.dcm").structures[0], grid)


def test_a_centre_on_an_edge_belongs_to_the_side_of_larger_indices() -> None:
    """A rectangle between pixel centres has as many pixels as its area, and neighbours share none."""
    left, right = fill([rectangle(2, 3, 6, 7)], (12, 12)), fill([rectangle(6, 3, 9, 7)], (12, 12))
    expected = np.zeros((12, 12), bool)
    expected[2:6, 3:7] = True
    assert np.array_equal(left, expected)
    assert right.sum() == 12
    assert not (left & right).any()
    for noise in (-1e-9, 1e-9):  # of an affine and its inverse
        assert np.array_equal(fill([rectangle(2, 3, 6, 7) + noise], (12, 12)), expected)
        assert np.array_equal(fill([rectangle(2, 3, 6, 7)[::-1] + noise], (12, 12)), expected)


def test_a_disc_has_the_voxels_whose_centres_lie_in_it() -> None:
    x, y = np.meshgrid(np.arange(40), np.arange(30), indexing="ij")
    for radius in (0.4, 3.3, 9.7, 14.2):
        exact = (x - 18.3) ** 2 + (y - 14.6) ** 2 < radius**2
        assert np.array_equal(fill([circle(18.3, 14.6, radius, 5000)], (40, 30)), exact)
    large = fill([circle(400.3, 390.6, 333)], (800, 800)).sum()
    assert abs(large / (np.pi * 333**2) - 1) < 1e-4


def test_random_polygons_agree_with_another_implementation() -> None:
    """scikit-image's, on corners that no pixel centre meets."""
    rng = np.random.default_rng(0)
    centres = np.argwhere(np.ones((20, 18)))
    for _ in range(30):
        corners = rng.uniform(-4, 24, (rng.integers(3, 9), 2))  # crosses itself, leaves the grid
        expected = points_in_poly(centres, corners).reshape(20, 18)
        assert np.array_equal(fill([corners], (20, 18)), expected)


def test_holes_as_contours_of_their_own_and_as_keyholes_are_one() -> None:
    outer, inner = rectangle(2, 2, 12, 11), rectangle(5, 4, 9, 8)
    keyhole = np.concatenate([outer[:1], outer[1:], outer[:1], inner[:1], inner[:0:-1], inner[:1]])
    for places in ((outer, inner), (keyhole,), (outer, inner, rectangle(6, 5, 8, 7))):
        filled = fill(list(places), (14, 14))
        assert filled.sum() == 90 - 16 + (4 if len(places) == 3 else 0)  # an island in the hole
    assert np.array_equal(fill([outer, inner], (14, 14)), fill([keyhole], (14, 14)))
    slanted = keyhole @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + [5, 0]  # its channel crosses pixels, and leaves no trace
    holes = [p @ np.array([[0.8, 0.6], [-0.6, 0.8]]) + [5, 0] for p in (outer, inner)]
    assert np.array_equal(fill([slanted], (20, 20)), fill(holes, (20, 20)))


@pytest.fixture(scope="module")
def ellipsoid(tmp_path_factory: pytest.TempPathFactory) -> Structure:
    contours = []
    for level in range(SHAPE[2]):
        if (scale := 1 - ((level - 2.1) / 1.9) ** 2) > 0:
            contours.append(world(circle(0, 0, np.sqrt(scale), 2000) * (8.1, 6.4) + (11.3, 9.2), level))
    path = tmp_path_factory.mktemp("ellipsoid") / "rs.dcm"
    write_structures(path, {"ellipsoid": contours})
    return read_structures(path).structures[0]


@pytest.mark.parametrize("axes", AXES)
def test_an_ellipsoid_on_an_oblique_grid_in_every_axis_order(axes: str, ellipsoid: Structure) -> None:
    """Contours in mm on an oblique anisotropic stack: exactly the voxels whose centres lie within."""
    x, y, z = np.meshgrid(*[np.arange(n) for n in SHAPE], indexing="ij")
    exact = ((x - 11.3) / 8.1) ** 2 + ((y - 9.2) / 6.4) ** 2 + ((z - 2.1) / 1.9) ** 2 < 1
    array, affine = turned(exact, GRID.affine, axes)
    found = raster(ellipsoid, Moved(affine, array.shape))
    assert np.array_equal(found.mask, array)
    assert found.notes == ()


def test_a_sheared_grid_takes_contours_in_its_planes(tmp_path: Path) -> None:
    """A stack that leans: positions move sideways from slice to slice."""
    affine = oblique()
    affine[:3, 2] += 0.3 * affine[:3, 0]
    found = through_file(tmp_path, [world(rectangle(2, 3, 8, 9), z, affine) for z in (1, 2)], Moved(affine, SHAPE))
    expected = np.zeros(SHAPE, bool)
    expected[2:8, 3:9, 1:3] = True
    assert np.array_equal(found.mask, expected)


def test_contours_off_the_slices_are_refused_and_named(tmp_path: Path) -> None:
    good = world(rectangle(2, 3, 8, 9), 1)
    near = world(rectangle(2, 3, 8, 9), 2.05)
    assert through_file(tmp_path, [good, near]).mask[:, :, 2].sum() == 36
    for z, words in (
        (2.4, r"structure 'liver': 1 of 2 contours lie in no slice of the image, up to 0\.4 of the slice distance"),
        (7, "structure 'liver': 1 of 2 contours lie beyond the 5 slices of the image, at slices 8 to 8"),
        (-1, "at slices 0 to 0"),
    ):
        with pytest.raises(InputError, match=words):
            through_file(tmp_path, [good, world(rectangle(2, 3, 8, 9), z)])
    tilted = good + np.linspace(0, 1, 4)[:, None] * GRID.affine[:3, 2]
    with pytest.raises(InputError, match="lie in no slice"):
        through_file(tmp_path, [good, tilted])


def test_what_is_cut_off_left_out_or_doubtful_is_noted(tmp_path: Path) -> None:
    found = through_file(tmp_path, [world(rectangle(-3, 3, 8, 9), 0), world(rectangle(2, 3, 8, 9), 3)])
    assert found.mask[:, :, 0].sum() == 8 * 6
    assert found.notes == (
        "no contour, so no voxel, in slice 2, 3 between others",
        "contours reach out of the image and are cut off in slice 1",
    )
    crossed = through_file(tmp_path, [world(rectangle(2, 3, 8, 9), 0), world(rectangle(5, 5, 12, 12), 0)])
    assert crossed.mask.sum() == 36 + 49 - 2 * 12
    assert crossed.notes == ("contours overlap in part, and what they share counts as a hole, in slice 1",)
    tiny = through_file(tmp_path, [world(circle(5.5, 5.5, 0.2), 0)])
    assert tiny.notes == ("no voxel centre lies inside its contours",)


def test_contours_that_are_no_areas(tmp_path: Path) -> None:
    write_structures(tmp_path / "p.dcm", {"iso": [world(rectangle(2, 3, 8, 9), 0)[:1]]}, "POINT")
    (point,) = read_structures(tmp_path / "p.dcm").structures
    assert point.others == ("1 contour of the type POINT, which is no area",)
    with pytest.raises(InputError, match="structure 'iso' has no contour that encloses an area"):
        raster(point, GRID)
    write_structures(tmp_path / "q.dcm", {"line": [world(rectangle(2, 3, 8, 9), 0)[:2]]})
    assert read_structures(tmp_path / "q.dcm").structures[0].others == (
        "1 contour with fewer than 3 points, or damaged",
    )
    (tmp_path / "r.dcm").write_bytes(b"not dicom")
    with pytest.raises(InputError, match=r"r\.dcm: is not a DICOM structure set"):
        read_structures(tmp_path / "r.dcm")


def test_structures_merge_in_the_order_that_is_asked_for(tmp_path: Path) -> None:
    a, b = [world(rectangle(2, 3, 8, 9), 0)], [world(rectangle(5, 5, 12, 12), 0)]
    write_structures(tmp_path / "rs.dcm", {"body": a, "organ": b})
    found = read_structures(tmp_path / "rs.dcm")
    assert [(s.number, s.name, s.kind) for s in found.structures] == [(1, "body", "ORGAN"), (2, "organ", "ORGAN")]
    with pytest.raises(InputError, match="'body' and 'organ' share 12 voxels"):
        found.merged(GRID)
    label = found.merged(GRID, [1, 2])
    assert [(label == value).sum() for value in (1, 2)] == [24, 49]
    label = found.merged(GRID, [2, 1])
    assert [(label == value).sum() for value in (1, 2)] == [37, 36]
    assert found.source_series
    assert found.reference


def test_a_planning_file_of_pydicom() -> None:
    """Three contours of 400 by 300 mm, 10 mm apart."""
    found = read_structures(Path(str(get_testdata_file("rtstruct.dcm"))))
    assert [s.name for s in found.structures] == ["patient", "Isocenter 1", "Isocenter 2"]
    affine = np.diag([5.0, 5.0, 10.0, 1.0])
    affine[:3, 3] = (-300, -250, -200)
    mask, notes = raster(found.structures[0], Moved(affine, (120, 100, 3)))
    assert mask.sum((0, 1)).tolist() == [80 * 60] * 3
    assert notes == ()
