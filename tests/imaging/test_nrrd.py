"""NRRD against the same volume as NIfTI, and files that must be refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import nrrd
import numpy as np
import pytest
import SimpleITK
from hypothesis import given, settings
from hypothesis import strategies as st

from medkd.errors import InputError
from medkd.imaging.geometry import flip_lps
from medkd.imaging.nifti import read_nifti, write_nifti
from medkd.imaging.nrrd import read_nrrd, read_nrrd_header

DATA = os.environ.get("MEDKD_DATA")
AFFINE = np.array([[0.9, -0.5, 0.3, -40], [0.6, 1.1, -0.9, 12.5], [-0.1, 0.4, 7.4, 3.25], [0, 0, 0, 1]])
"""Oblique and sheared, RAS mm."""
GREY = np.random.default_rng(0).integers(-900, 900, (4, 5, 6)).astype(np.int16)
SIGNS = {"right-anterior-superior": (1, 1, 1), "left-posterior-superior": (-1, -1, 1), "LAS": (-1, 1, 1)}


def fields(space: str = "left-posterior-superior", affine: np.ndarray = AFFINE, **more: object) -> dict[str, object]:
    turned = np.array(SIGNS[space])[:, None] * affine[:3]
    return {"space": space, "space directions": turned[:, :3].T, "space origin": turned[:, 3], **more}


@pytest.mark.parametrize("space", SIGNS)
def test_every_patient_space_gives_the_grid_of_the_nifti_file(tmp_path: Path, space: str) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), GREY, fields(space))
    write_nifti(tmp_path / "a.nii.gz", GREY, AFFINE)
    ours, nifti = read_nrrd(tmp_path / "a.nrrd"), read_nifti(tmp_path / "a.nii.gz")
    assert np.array_equal(ours.array, nifti.array)
    assert ours.array.dtype == np.int16
    assert ours.array.flags.c_contiguous
    assert np.array_equal(ours.affine, AFFINE)
    assert np.abs(ours.affine - nifti.affine).max() < 1e-5
    assert ours.spacing == pytest.approx(nifti.spacing)
    header = read_nrrd_header(tmp_path / "a.nrrd")
    assert header.shape == GREY.shape
    assert np.array_equal(header.affine, ours.affine)


@pytest.mark.parametrize("encoding", ["raw", "gzip", "bzip2", "ascii"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int64, np.uint64, np.float32, np.float64])
@pytest.mark.parametrize("detached", [False, True])
def test_every_encoding_and_type(tmp_path: Path, encoding: str, dtype: type, detached: bool) -> None:
    array = np.abs(GREY).astype(dtype)
    largest = np.iinfo(dtype).max if np.issubdtype(dtype, np.integer) else 1 / 3
    array.flat[:2] = largest if encoding != "ascii" else 100  # which pynrrd writes in decimal, rounded
    path = tmp_path / ("a.nhdr" if detached else "a.nrrd")
    nrrd.write(str(path), array, fields(encoding=encoding))
    assert len(list(tmp_path.iterdir())) == 1 + detached
    scan = read_nrrd(path)
    assert scan.array.dtype == dtype
    assert np.array_equal(scan.array, array)


def test_big_endian_voxels(tmp_path: Path) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), GREY.astype(">i2"), fields(endian="big", encoding="raw"))
    assert b"endian: big" in (tmp_path / "a.nrrd").read_bytes()
    assert np.array_equal(read_nrrd(tmp_path / "a.nrrd").array, GREY)


def test_a_list_axis_of_length_one_goes_and_longer_ones_are_refused(tmp_path: Path) -> None:
    nowhere = [np.nan] * 3
    for place, length in ((0, 1), (3, 1), (0, 3), (3, 2)):
        directions = np.insert(np.asarray(fields()["space directions"]), place, nowhere, 0)
        array = np.repeat(np.expand_dims(GREY, place), length, place)
        kinds = ["domain"] * 3
        kinds.insert(place, "list")
        nrrd.write(str(tmp_path / "a.nrrd"), array, fields() | {"space directions": directions, "kinds": kinds})
        if length == 1:
            assert np.array_equal(read_nrrd(tmp_path / "a.nrrd").array, GREY)
        else:
            with pytest.raises(InputError, match=rf"a\.nrrd: it holds {length} values a voxel"):
                read_nrrd(tmp_path / "a.nrrd")


@settings(max_examples=40)
@given(
    st.permutations([0, 1, 2]),
    st.tuples(*[st.sampled_from([-1.0, 1.0])] * 3),
    st.tuples(*[st.floats(0.3, 9)] * 3),
    st.tuples(*[st.floats(-0.3, 0.3)] * 3),
    st.sampled_from(sorted(SIGNS)),
)
def test_any_axes_spacing_and_shear_give_the_affine_exactly(
    tmp_path_factory: pytest.TempPathFactory, order: list[int], signs: tuple, spacing: tuple, shear: tuple, space: str
) -> None:
    affine = np.eye(4)
    lean = np.array([[1, shear[0], shear[1]], [0, 1, shear[2]], [0, 0, 1]])
    affine[:3, :3] = (lean @ np.eye(3)[:, order] * signs) * spacing
    affine[:3, 3] = (-10.1, 1 / 3, 400.7)
    path = tmp_path_factory.mktemp("nrrd") / "a.nrrd"
    nrrd.write(str(path), GREY, fields(space, affine))
    assert np.array_equal(read_nrrd(path).affine, affine)


def test_agrees_with_simpleitk_on_a_file_of_its_own(tmp_path: Path) -> None:
    turn, _ = np.linalg.qr(AFFINE[:3, :3])
    image = SimpleITK.GetImageFromArray(GREY.transpose(2, 1, 0))
    image.SetDirection(turn.ravel().tolist())
    image.SetSpacing((0.7, 1.3, 8.0))
    image.SetOrigin((-87.3, 12.9, 401.7))
    SimpleITK.WriteImage(image, str(tmp_path / "a.nrrd"))
    scan = read_nrrd(tmp_path / "a.nrrd")
    assert np.array_equal(scan.array, GREY)
    for voxel in ((0, 0, 0), (3, 4, 5), (1, 0, 5)):
        expected = flip_lps(np.array(image.TransformIndexToPhysicalPoint(voxel)))
        assert np.allclose((scan.affine @ [*voxel, 1])[:3], expected, atol=1e-6)


@pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real scans here")
def test_real_scans_as_nrrd_equal_their_nifti_files(tmp_path: Path) -> None:
    files = sorted(Path(str(DATA), "nifti_geometry").rglob("*.nii.gz"))
    read = 0
    for file in files:
        try:
            scan = read_nifti(file)
        except InputError:
            continue
        nrrd.write(str(tmp_path / "a.nrrd"), scan.array, fields(affine=scan.affine, encoding="raw"))
        ours = read_nrrd(tmp_path / "a.nrrd")
        assert np.array_equal(ours.array, scan.array)
        assert ours.array.dtype == scan.array.dtype
        assert np.array_equal(ours.affine, scan.affine)
        read += 1
    assert read >= 15


def without(key: str) -> Callable[[bytes], bytes]:
    return lambda content: b"\n".join(line for line in content.split(b"\n") if not line.startswith(key.encode()))


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda content: content.replace(b"left-posterior-superior", b"scanner-xyz"), "does not say where left is"),
        (lambda content: content.replace(b"space: left-posterior-superior", b"space dimension: 3"), "not stated"),
        (lambda content: content[:-10], "fewer than the"),
        (lambda content: content + b"12", "more than the"),
        (lambda content: content[:40], "truncated or not NRRD"),
        (lambda content: b"hello", "truncated or not NRRD"),
        (lambda content: content.replace(b"type: int16", b"type: block"), "voxels of the type block"),
        (lambda content: content.replace(b"sizes: 4 5 6", b"sizes: 99999 99999 99999"), "GiB of voxels"),
        (lambda content: content.replace(b"sizes: 4 5 6", b"sizes: 4 5 0"), "3-D volume"),
        (lambda content: content.replace(b"encoding: raw", b"encoding: zrl"), "raw, ascii, gzip and bzip2"),
        (lambda content: content.replace(b"encoding: raw", b"encoding: raw\nbyte skip: 4"), "skips lines or bytes"),
        (lambda content: content.replace(b"encoding: raw", b'encoding: raw\nspace units: "in" "in" "in"'), "unit"),
        (without("space directions"), "truncated or not NRRD"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_trusted_is_one_sentence(
    tmp_path: Path, edit: Callable[[bytes], bytes], words: str
) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), GREY, fields(encoding="raw"))
    content = (tmp_path / "a.nrrd").read_bytes()
    changed = edit(content)
    assert changed != content
    (tmp_path / "a.nrrd").write_bytes(changed)
    with pytest.raises(InputError, match=words) as caught:
        read_nrrd(tmp_path / "a.nrrd")
    assert len(caught.value.problems) == 1
    assert caught.value.problems[0].startswith("a.nrrd")


@pytest.mark.parametrize("position", [-3, -6, -20])
def test_one_flipped_bit_in_a_compressed_file_is_seen(tmp_path: Path, position: int) -> None:
    nrrd.write(str(tmp_path / "a.nrrd"), GREY, fields(encoding="gzip"))
    content = bytearray((tmp_path / "a.nrrd").read_bytes())
    content[position] ^= 16
    (tmp_path / "a.nrrd").write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"a\.nrrd"):
        read_nrrd(tmp_path / "a.nrrd")


@pytest.mark.parametrize("name", ["../secret.raw", "/etc/hostname", "LIST", "a%d.raw 1 2 1", "gone.raw"])
def test_a_detached_header_reads_its_own_folder_only(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    nrrd.write(str(folder / "a.nhdr"), GREY, fields(encoding="raw"))
    (tmp_path / "secret.raw").write_bytes(GREY.tobytes())
    content = (folder / "a.nhdr").read_bytes().replace(b"data file: a.raw", f"data file: {name}".encode())
    (folder / "a.nhdr").write_bytes(content)
    with pytest.raises(InputError, match="its data"):
        read_nrrd(folder / "a.nhdr")


def test_centimetres_become_millimetres(tmp_path: Path) -> None:
    scaled = AFFINE.copy()
    scaled[:3] /= 10
    nrrd.write(str(tmp_path / "a.nrrd"), GREY, fields(affine=scaled) | {"space units": ["cm", "cm", "cm"]})
    assert np.allclose(read_nrrd(tmp_path / "a.nrrd").affine, AFFINE)
