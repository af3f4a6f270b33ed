"""DICOM SEG to masks: real files, sparse and overlapping frames, any grid, and the way back through highdicom."""

from __future__ import annotations

import os
from pathlib import Path

import highdicom
import numpy as np
import pydicom
import pytest
from synthetic_dicom import write_series
from synthetic_labels import AXES, oblique, turned, write_seg

from medkd.errors import InputError
from medkd.imaging.dicom.deidentify import Deidentifier
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.seg import Segment, read_segmentation
from medkd.imaging.dicom.seg_write import write_segmentation
from medkd.imaging.dicom.volumes import Volume, plan_volumes
from medkd.imaging.geometry import Moved, flip_lps
from medkd.imaging.nifti import read_nifti, write_nifti

DATA = os.environ.get("MEDKD_DATA")
SHAPE = (7, 6, 5)
SEGMENTS = [Segment(1, "liver"), Segment(2, "spleen"), Segment(3, "never seen"), Segment(4, "kidney")]
needs_data = pytest.mark.skipif(not DATA, reason="MEDKD_DATA is not set: no real DICOM here")


def some_mask(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).choice([0, 1, 2, 4], SHAPE).astype(np.uint8)


def source(folder: Path, affine: np.ndarray, shape: tuple[int, ...] = SHAPE) -> Volume:
    write_series(folder, np.random.default_rng(1).integers(0, 99, shape).astype(np.int16), affine)
    return plan_volumes(find_series(folder).series[0])[0]


@pytest.fixture(scope="module")
def volume(tmp_path_factory: pytest.TempPathFactory) -> Volume:
    return source(tmp_path_factory.mktemp("series"), oblique())


def frames_of_mask(mask: np.ndarray) -> list[tuple[int, np.ndarray, tuple[int, int, int]]]:
    return [
        (n, mask[:, :, z] == n, (0, 0, z)) for n in (1, 2) for z in range(mask.shape[2]) if (mask[:, :, z] == n).any()
    ]


@needs_data
@pytest.mark.parametrize(
    ("name", "shape", "sums"),
    [
        ("seg_image_ct_binary", (16, 16, 3), [638]),
        ("seg_image_ct_binary_overlap", (16, 16, 165), [64, 16]),  # 8 frames of 4 places, one 202.5 mm off
        ("seg_image_ct_binary_single_frame", (128, 128, 1), [1832]),
    ],
)
def test_bit_sums_of_real_files(name: str, shape: tuple[int, ...], sums: list[int]) -> None:
    found = read_segmentation(Path(str(DATA), "dicom/highdicom", f"{name}.dcm"))
    assert found.shape == shape
    assert [int(found.mask(segment.number).sum()) for segment in found.segments] == sums
    assert found.segments[0].type.meaning == "Bone"


@needs_data
def test_fractions_of_real_files() -> None:
    folder = Path(str(DATA), "dicom/highdicom")
    found = read_segmentation(folder / "seg_image_ct_true_fractional.dcm")
    stored = np.rint(found.fraction(1).astype(np.float64) * 255)
    assert stored.sum() == 83_136
    assert set(np.unique(stored)) == {0, 64, 128}
    assert np.array_equal(found.mask(1), stored >= 127.5)
    whole = read_segmentation(folder / "seg_image_ct_binary_fractional.dcm")
    assert np.array_equal(whole.mask(1), read_segmentation(folder / "seg_image_ct_binary.dcm").mask(1))


@needs_data
def test_real_files_without_a_place_in_the_patient_are_refused() -> None:
    for name in ("seg_image_cr_binary", "seg_image_sm_dots"):
        with pytest.raises(InputError, match=rf"{name}\.dcm: the place in the patient is not stated"):
            read_segmentation(Path(str(DATA), "dicom/highdicom", f"{name}.dcm"))
    with pytest.raises(InputError, match="is not a DICOM segmentation"):
        read_segmentation(Path(str(DATA), "dicom/highdicom", "ct_image.dcm"))


@needs_data
def test_overlap_needs_an_order() -> None:
    found = read_segmentation(Path(str(DATA), "dicom/highdicom/seg_image_ct_binary_overlap.dcm"))
    with pytest.raises(InputError, match="'first segment' and 'second segment' share 16 voxels"):
        found.merged()
    first, second = found.mask(1), found.mask(2)
    assert np.array_equal(found.merged([1, 2]), np.where(second, 2, np.where(first, 1, 0)))
    assert np.array_equal(found.merged([2, 1]), np.where(first, 1, np.where(second, 2, 0)))
    assert np.array_equal(found.merged([2]), np.where(second, 2, 0))
    for order, words in (([1, 7], "there is no segment 7; there are 1, 2"), ([1, 1], "asked for twice")):
        with pytest.raises(InputError, match=words):
            found.merged(order)


@pytest.mark.parametrize("axes", AXES)
def test_a_nifti_mask_comes_back_exactly_in_every_axis_order(axes: str, volume: Volume, tmp_path: Path) -> None:
    """NIfTI mask -> SEG of an oblique series -> mask on the NIfTI's grid, and on the file's own."""
    array, affine = turned(some_mask(), volume.affine, axes)
    write_nifti(tmp_path / "mask.nii.gz", array, affine)
    nifti = read_nifti(tmp_path / "mask.nii.gz")
    write_segmentation(tmp_path / "m.dcm", nifti.array, nifti.affine, SEGMENTS, volume, deidentifier=None)
    back = read_segmentation(tmp_path / "m.dcm", nifti)
    assert np.array_equal(back.merged(), nifti.array)
    assert np.array_equal(back.affine, nifti.affine)
    alone = read_segmentation(tmp_path / "m.dcm")
    assert np.array_equal(alone.merged(), some_mask())
    assert np.abs(alone.affine - volume.affine).max() < 1e-9
    assert alone.source_series == volume.series.uid


@pytest.mark.parametrize(
    "axes", [axes for axes in AXES if np.linalg.det(turned(np.zeros(SHAPE), oblique(), axes)[1]) > 0]
)
def test_series_acquired_along_any_axes(axes: str, tmp_path: Path) -> None:
    """Sagittal, coronal, feet first, ...: a stack of slices is always right-handed, so there are 24."""
    array, affine = turned(some_mask(), oblique(), axes)
    volume = source(tmp_path / "s", affine, array.shape)
    write_segmentation(tmp_path / "m.dcm", some_mask(), oblique(), SEGMENTS, volume, deidentifier=None)
    assert np.array_equal(read_segmentation(tmp_path / "m.dcm", Moved(oblique(), SHAPE)).merged(), some_mask())


def test_highdicom_reads_what_was_written_frame_by_frame(volume: Volume, tmp_path: Path) -> None:
    mask = some_mask()
    write_segmentation(tmp_path / "m.dcm", mask, volume.affine, SEGMENTS, volume, deidentifier=None)
    seg = highdicom.seg.segread(tmp_path / "m.dcm")
    assert [seg.get_segment_description(n).segment_label for n in seg.segment_numbers] == [
        "liver",
        "spleen",
        "never seen",
        "kidney",
    ]
    uids = [volume.series.headers[file].SOPInstanceUID for file, _ in volume.frames]
    pixels = seg.get_pixels_by_source_instance(uids, combine_segments=True, ignore_spatial_locations=False)
    assert np.array_equal(pixels.transpose(2, 1, 0), mask)


def test_segments_without_voxels_are_described_and_an_empty_mask_is_written(volume: Volume, tmp_path: Path) -> None:
    write_segmentation(tmp_path / "m.dcm", some_mask(), volume.affine, SEGMENTS, volume, deidentifier=None)
    found = read_segmentation(tmp_path / "m.dcm", volume)
    assert [(s.number, s.label) for s in found.segments] == [(s.number, s.label) for s in SEGMENTS]
    assert not found.mask(3).any()
    empty = np.zeros(SHAPE, np.uint8)
    write_segmentation(tmp_path / "e.dcm", empty, volume.affine, SEGMENTS, volume, deidentifier=None)
    assert not read_segmentation(tmp_path / "e.dcm", volume).merged().any()


def test_the_source_may_lack_what_the_standard_wants_or_hold_it_malformed(tmp_path: Path) -> None:
    wanted = ("PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate", "StudyTime")

    def lack(dataset: pydicom.Dataset, _: int) -> None:
        for keyword in (*wanted, "FrameOfReferenceUID"):
            delattr(dataset, keyword)

    def spoil(dataset: pydicom.Dataset, _: int) -> None:
        for keyword in wanted:
            dataset.add_new(keyword, "LO", "what is this, if not far too long")
        dataset.SpecificCharacterSet, dataset.PatientName = "ISO 2022 IR 100", "M\u00fcller^J\u00fcrgen"

    for edit in (lack, spoil):
        folder = tmp_path / edit.__name__
        write_series(folder, np.zeros(SHAPE, np.int16), oblique(), edit)
        volume = plan_volumes(find_series(folder).series[0])[0]
        write_segmentation(tmp_path / "m.dcm", some_mask(), volume.affine, SEGMENTS, volume, deidentifier=None)
        assert np.array_equal(read_segmentation(tmp_path / "m.dcm", volume).merged(), some_mask())
    assert str(pydicom.dcmread(tmp_path / "m.dcm").PatientName) == "M\u00fcller^J\u00fcrgen"


@needs_data
@pytest.mark.parametrize(
    "folder",
    ["siemens_multiframe/anatomical", "philips/anatomical", "generic/compressed_jpegls", "philips_enhanced/fmri"],
)
def test_real_series_take_a_segmentation_that_refers_to_the_right_frames(folder: str, tmp_path: Path) -> None:
    """Two of these lack what highdicom demands of a source; the last is a 4-D series in one file."""
    (series,) = find_series(Path(str(DATA), "dicom/dicom2nifti", folder, "001")).series
    before = [str(header) for header in series.headers]
    volume = plan_volumes(series)[-1]
    mask = np.zeros(volume.shape, np.uint8)
    mask[10:30, 10:50] = np.random.default_rng(0).integers(0, 3, mask[10:30, 10:50].shape)
    for deidentifier in (Deidentifier(bytes(16)), None):
        write_segmentation(tmp_path / "m.dcm", mask, volume.affine, SEGMENTS[:2], volume, deidentifier=deidentifier)
        assert np.array_equal(read_segmentation(tmp_path / "m.dcm", volume).merged(), mask)
    assert [str(header) for header in series.headers] == before
    sources = [(series.headers[file].SOPInstanceUID, frame + 1) for file, frame in volume.frames]
    lines = {tuple(np.round(flip_lps(origin), 3)): source for origin, source in zip(volume.origins, sources)}
    for group in pydicom.dcmread(tmp_path / "m.dcm").PerFrameFunctionalGroupsSequence:
        position = tuple(np.round(np.array(group.PlanePositionSequence[0].ImagePositionPatient, float), 3))
        (referenced,) = group.DerivationImageSequence[0].SourceImageSequence
        uid, frame = lines[position]
        assert referenced.ReferencedSOPInstanceUID == uid
        assert referenced.get("ReferencedFrameNumber", 1) == frame


def test_what_cannot_be_written(volume: Volume, tmp_path: Path) -> None:
    mask, path = some_mask(), tmp_path / "m.dcm"
    shifted = volume.affine.copy()
    shifted[0, 3] += 0.2
    for wrong, affine, segments, words in (
        (mask, shifted, SEGMENTS, "does not lie on its source: voxels lie up to 0.2 mm apart"),
        (mask[:-1], volume.affine, SEGMENTS, "does not lie on its source: shape"),
        (mask, volume.affine, SEGMENTS[:2], r"the mask holds \[4\], but the segments are numbered \[1, 2\]"),
        (mask, volume.affine, SEGMENTS[1:], "without a gap"),
        (mask, volume.affine, [Segment(1, " "), *SEGMENTS[1:]], "segment 1 has no label"),
        (mask.astype(float), volume.affine, SEGMENTS, "whole numbers"),
    ):
        with pytest.raises(InputError, match=words):
            write_segmentation(path, wrong, affine, segments, volume, deidentifier=None)
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
@pytest.mark.parametrize("axes", ["RAS", "LPI", "SRA", "PIL"])
def test_frames_in_any_order_land_in_their_voxels(kind: str, axes: str, tmp_path: Path) -> None:
    mask = some_mask(3) * (some_mask(3) < 3)
    if kind == "LABELMAP":
        frames = [(0, mask[:, :, z], (0, 0, z)) for z in range(SHAPE[2])]
    else:
        scale = 255 if kind == "FRACTIONAL" else 1
        frames = [(n, pixels * np.uint8(scale), start) for n, pixels, start in frames_of_mask(mask)]
    order = np.random.default_rng(2).permutation(len(frames))
    write_seg(tmp_path / "m.dcm", [frames[i] for i in order], oblique(), ["a", "b"], kind)
    array, affine = turned(mask, oblique(), axes)
    assert np.array_equal(read_segmentation(tmp_path / "m.dcm", Moved(affine, array.shape)).merged(), array)
    assert np.array_equal(read_segmentation(tmp_path / "m.dcm").merged(), mask)


def test_a_cropped_segmentation_lies_where_its_position_says(tmp_path: Path) -> None:
    """Frames smaller than the image, on two of its slices only."""
    mask = np.zeros(SHAPE, np.uint8)
    mask[2:5, 1:4, 3] = 1
    mask[3, 2, 1] = 1
    frames = [(1, mask[2:6, 1:5, z], (2, 1, z)) for z in (3, 1)]
    write_seg(tmp_path / "m.dcm", frames, oblique(), ["a"])
    assert np.array_equal(read_segmentation(tmp_path / "m.dcm", Moved(oblique(), SHAPE)).mask(1), mask == 1)
    own = read_segmentation(tmp_path / "m.dcm")
    assert own.shape == (4, 4, 2)  # no slice distance is stated, and two slices have only one
    write_seg(tmp_path / "n.dcm", frames, oblique(), ["a"], slice_distance=4.1)
    own = read_segmentation(tmp_path / "n.dcm")
    assert own.shape == (4, 4, 3)
    assert np.array_equal(own.mask(1), mask[2:6, 1:5, 1:4] == 1)
    assert np.allclose(own.affine[:3, 3], (oblique() @ [2, 1, 1, 1])[:3])
    assert own.notes == ("1 of 3 slices are not in the file: taken as background",)


def test_frames_beyond_the_image_are_refused_only_if_they_mark_something(tmp_path: Path) -> None:
    pixels = np.zeros(SHAPE[:2], np.uint8)
    pixels[0, 0] = 1
    for start, marked in (((0, 0, 9), True), ((-1, 0, 2), True), ((0, 0, -1), False)):
        write_seg(tmp_path / "m.dcm", [(1, pixels * marked, start), (1, pixels, (0, 0, 0))], oblique(), ["a"])
        if marked:
            with pytest.raises(InputError, match=r"m\.dcm: it marks pixels outside the image: instance 1 frame 1"):
                read_segmentation(tmp_path / "m.dcm", Moved(oblique(), SHAPE))
        else:
            assert read_segmentation(tmp_path / "m.dcm", Moved(oblique(), SHAPE)).mask(1).sum() == 1


def test_a_segmentation_of_another_grid_is_refused(tmp_path: Path) -> None:
    write_seg(tmp_path / "m.dcm", frames_of_mask(some_mask()), oblique(), ["a", "b"])
    for change, words in (
        ({"spacing": (0.7, 1.4, 4.1)}, "miss the voxels of the image by"),
        ({"spacing": (1.5, 1.3, 4.1)}, "of another size"),
        ({"origin": (-31.7 + 0.1, 12.25, 401.125)}, "miss the voxels of the image by"),
    ):
        with pytest.raises(InputError, match=words) as caught:
            read_segmentation(tmp_path / "m.dcm", Moved(oblique(**change), SHAPE))
        assert all("frame 1," in problem for problem in caught.value.problems)


def test_contradictions_in_a_file_are_refused(tmp_path: Path) -> None:
    pixels = np.ones(SHAPE[:2], np.uint8)
    for frames, kind, words in (
        ([(1, pixels, (0, 0, 0)), (1, pixels, (0, 0, 0))], "BINARY", "show one segment at one place"),
        ([(3, pixels, (0, 0, 0))], "BINARY", "does not say which of its segments is shown in instance 1 frame 1"),
        ([(0, pixels * 7, (0, 0, 0))], "LABELMAP", "holds the value 7, which is none of its segments"),
        ([(1, pixels, (0, 0, 0))], "OTHER", "segmentation type is OTHER"),
    ):
        write_seg(tmp_path / "m.dcm", frames, oblique(), ["a", "b"], kind)
        with pytest.raises(InputError, match=words):
            read_segmentation(tmp_path / "m.dcm")
    frames = [(1, pixels, (0, 0, 0)), (1, pixels, (0, 0, 1)), (1, pixels, (0, 0, 2.4))]
    write_seg(tmp_path / "m.dcm", frames, oblique(), ["a"])
    with pytest.raises(InputError, match=r"lie on no grid of slices 4\.1 mm apart"):
        read_segmentation(tmp_path / "m.dcm")
    (tmp_path / "m.dcm").write_bytes((tmp_path / "m.dcm").read_bytes()[:-8])
    with pytest.raises(InputError, match=r"m\.dcm: "):
        read_segmentation(tmp_path / "m.dcm")
