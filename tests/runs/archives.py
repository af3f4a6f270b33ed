"""Small archives of DICOM series with labels, as a hospital exports them: for the tests of info and prepare."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, generate_uid
from synthetic_dicom import write_series

from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.seg import Segment
from medkd.imaging.dicom.seg_write import write_segmentation
from medkd.imaging.dicom.volumes import Volume, plan_volumes
from medkd.imaging.geometry import flip_lps

SHAPE = (24, 20, 8)
AFFINE = np.array([[-1.5, 0, 0, 40], [0, -1.5, 0, 30], [0, 0, 3.0, -50], [0, 0, 0, 1]])
"""Voxel to RAS mm: left, posterior, superior axes."""
CLASSES = ("background", "liver")


def picture(seed: int) -> np.ndarray:
    """A bright box in noise, int16."""
    array = np.random.default_rng(seed).integers(-50, 50, SHAPE).astype(np.int16)
    array[box()] += 400
    return array


def box(value: int = 1) -> np.ndarray:
    mask = np.zeros(SHAPE, bool)
    mask[6:14, 5:12, 2:6] = True
    return mask * np.uint8(value) if value > 1 else mask


def add_series(
    folder: Path, patient: str, seed: str, array: np.ndarray, edit: Callable[[Dataset, int], None] | None = None
) -> list[Path]:
    """A CT series of a patient in files without extension; each patient has a study of its own."""

    def change(dataset: Dataset, z: int) -> None:
        dataset.PatientID, dataset.PatientName = f"ID-{patient}", f"{patient}^Test"
        dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study", patient])
        dataset.SeriesDescription = f"abdomen {seed}"
        if edit:
            edit(dataset, z)

    files = write_series(folder, array, AFFINE, change, seed=f"{patient} {seed}")
    return [file.rename(folder / f"I{number:05d}") for number, file in enumerate(files)]


def volume_of(folder: Path) -> Volume:
    (series,) = find_series(folder).series
    return plan_volumes(series)[0]


def add_seg(path: Path, series: Path, mask: np.ndarray, names: tuple[str, ...] = ("Liver",)) -> None:
    """A DICOM SEG that was drawn on the series in a folder."""
    segments = [Segment(number, name) for number, name in enumerate(names, 1)]
    write_segmentation(path, mask.astype(np.uint8), AFFINE, segments, volume_of(series), deidentifier=None)


def add_structures(path: Path, series: Path, boxes: dict[str, tuple[slice, slice, slice]]) -> None:
    """An RTSTRUCT with a rectangle around each box (its voxel centres inside) in every slice of it."""
    source = find_series(series).series[0]
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = RTStructureSetStorage
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path.name)])
    dataset.PatientID, dataset.PatientName = source.headers[0].PatientID, source.headers[0].PatientName
    dataset.StudyInstanceUID = source.study_uid
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=["rt", path.name])
    dataset.Modality, dataset.SeriesDescription, dataset.StructureSetLabel = "RTSTRUCT", "contours", "contours"
    referenced, study, frame = Dataset(), Dataset(), Dataset()
    referenced.SeriesInstanceUID = source.uid
    study.RTReferencedSeriesSequence = Sequence([referenced])
    frame.FrameOfReferenceUID = source.headers[0].FrameOfReferenceUID
    frame.RTReferencedStudySequence = Sequence([study])
    dataset.ReferencedFrameOfReferenceSequence = Sequence([frame])
    dataset.StructureSetROISequence, dataset.ROIContourSequence = Sequence(), Sequence()
    for number, (name, (x, y, z)) in enumerate(boxes.items(), 1):
        roi, drawn = Dataset(), Dataset()
        roi.ROINumber, roi.ROIName = number, name
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Sequence()
        for level in range(z.start, z.stop):
            contour = Dataset()
            left, right, low, high = x.start - 0.4, x.stop - 0.6, y.start - 0.4, y.stop - 0.6
            corners = np.array([(a, b, level, 1) for a, b in ((left, low), (right, low), (right, high), (left, high))])
            points = flip_lps((AFFINE @ corners.T).T[:, :3])
            contour.ContourGeometricType, contour.NumberOfContourPoints = "CLOSED_PLANAR", 4
            contour.ContourData = [f"{v:.6g}" for v in points.ravel()]
            drawn.ContourSequence.append(contour)
        dataset.StructureSetROISequence.append(roi)
        dataset.ROIContourSequence.append(drawn)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)


def cohort(folder: Path, patients: int = 4) -> Path:
    """An archive of patients with one series each and its DICOM SEG beside it."""
    for number in range(patients):
        place = folder / f"export{number}" / "A" / "S1"
        add_series(place, f"patient{number}", "portal", picture(number))
        add_seg(folder / f"export{number}" / "B" / "seg", place, box())
    return folder


def zipped(folder: Path) -> Path:
    return Path(shutil.make_archive(str(folder), "zip", folder))
