"""Small DICOM label files written with pydicom, and the 48 axis orders, for the tests of what reads labels."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import nibabel as nib
import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, RTStructureSetStorage, SegmentationStorage, generate_uid

from medkd.imaging.geometry import flip_lps

AXES = [
    "".join(letters) for order in itertools.permutations(("RL", "AP", "SI")) for letters in itertools.product(*order)
]
"""RAS, RAI, ... ILP: what the axes of an array point to."""


def oblique(
    spacing: Sequence[float] = (0.7, 1.3, 4.1), origin: Sequence[float] = (-31.7, 12.25, 401.125)
) -> np.ndarray:
    """(4, 4) voxel to RAS mm: about 20 degrees from the body axes, without shear."""
    a, b, c = np.radians((14, -11, 9))
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ [[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]]
    turn = turn @ [[np.cos(c), 0, np.sin(c)], [0, 1, 0], [-np.sin(c), 0, np.cos(c)]]
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = turn * spacing, origin
    return affine


def turned(array: np.ndarray, affine: np.ndarray, axes: str) -> tuple[np.ndarray, np.ndarray]:
    """The same voxels with the array axes in another order and direction, and their affine. By nibabel."""
    transform = nib.orientations.ornt_transform(nib.io_orientation(affine), nib.orientations.axcodes2ornt(axes))
    back = nib.orientations.inv_ornt_aff(transform, array.shape)
    return np.ascontiguousarray(nib.apply_orientation(array, transform)), affine @ back


def _dataset(sop_class: str, seed: str) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = sop_class
    dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[seed, "sop"])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[seed, "series"])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    dataset.PatientID, dataset.PatientName = "SYNTHETIC-1", "Synthetic^Patient"
    return dataset


def _item(**values: object) -> Items:
    dataset = Dataset()
    for keyword, value in values.items():
        setattr(dataset, keyword, value)
    return Items([dataset])


def write_seg(
    path: Path,
    frames: Sequence[tuple[int, np.ndarray, Sequence[float]]],
    affine: np.ndarray,
    names: Sequence[str],
    kind: str = "BINARY",
    slice_distance: float | None = None,
) -> Dataset:
    """Write frames (segment number, pixels (X, Y), index of the first voxel) of a grid as a DICOM SEG.

    Fractions are stored in [0, 255]. slice_distance: what the header states, mm.
    """
    lps = flip_lps(affine)
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    dataset = _dataset(SegmentationStorage, path.name)
    dataset.Modality, dataset.SegmentationType = "SEG", kind
    dataset.ImageType, dataset.InstanceNumber = ["DERIVED", "PRIMARY"], 1
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation, dataset.PixelRepresentation = 1, "MONOCHROME2", 0
    dataset.Columns, dataset.Rows = frames[0][1].shape
    dataset.NumberOfFrames = len(frames)
    dataset.BitsAllocated = dataset.BitsStored = 1 if kind == "BINARY" else 8
    dataset.HighBit = dataset.BitsStored - 1
    if kind == "FRACTIONAL":
        dataset.SegmentationFractionalType, dataset.MaximumFractionalValue = "PROBABILITY", 255
    dataset.SegmentSequence = Items()
    for number, name in enumerate(names, 1):
        segment = Dataset()
        segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType = number, name, "MANUAL"
        segment.SegmentedPropertyTypeCodeSequence = _item(
            CodeValue="10200004", CodingSchemeDesignator="SCT", CodeMeaning="Liver"
        )
        dataset.SegmentSequence.append(segment)
    measures = {"PixelSpacing": [sizes[1], sizes[0]], "SliceThickness": sizes[2]}
    if slice_distance:
        measures["SpacingBetweenSlices"] = slice_distance
    directions = (lps[:3, :2] / sizes[:2]).T.ravel()
    shared = Dataset()
    shared.PixelMeasuresSequence = _item(**{key: _ds(value) for key, value in measures.items()})
    shared.PlaneOrientationSequence = _item(ImageOrientationPatient=[round(float(v), 12) for v in directions])
    dataset.SharedFunctionalGroupsSequence = Items([shared])
    dataset.PerFrameFunctionalGroupsSequence = Items()
    for number, _, start in frames:
        group = Dataset()
        group.PlanePositionSequence = _item(ImagePositionPatient=_ds((lps @ [*start, 1])[:3]))
        if kind != "LABELMAP":
            group.SegmentIdentificationSequence = _item(ReferencedSegmentNumber=number)
        dataset.PerFrameFunctionalGroupsSequence.append(group)
    pixels = np.stack([np.asarray(pixels, np.uint8).T for _, pixels, _ in frames])
    data = np.packbits(pixels.ravel(), bitorder="little").tobytes() if kind == "BINARY" else pixels.tobytes()
    dataset.PixelData = data + b"\0" * (len(data) % 2)
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def write_structures(path: Path, structures: dict[str, list[np.ndarray]], kind: str = "CLOSED_PLANAR") -> Dataset:
    """Write contours (n, 3) RAS mm a name as a DICOM RTSTRUCT."""
    dataset = _dataset(RTStructureSetStorage, path.name)
    dataset.Modality, dataset.StructureSetLabel = "RTSTRUCT", "test"
    series = _item(SeriesInstanceUID=generate_uid(entropy_srcs=["series"]))
    study = _item(RTReferencedSeriesSequence=series)
    dataset.ReferencedFrameOfReferenceSequence = _item(
        FrameOfReferenceUID=dataset.FrameOfReferenceUID, RTReferencedStudySequence=study
    )
    for keyword in ("StructureSetROISequence", "ROIContourSequence", "RTROIObservationsSequence"):
        setattr(dataset, keyword, Items())
    for number, (name, contours) in enumerate(structures.items(), 1):
        dataset.StructureSetROISequence += _item(ROINumber=number, ROIName=name)
        dataset.RTROIObservationsSequence += _item(ReferencedROINumber=number, RTROIInterpretedType="ORGAN")
        drawn = Dataset()
        drawn.ReferencedROINumber, drawn.ContourSequence = number, Items()
        for contour in contours:
            drawn.ContourSequence += _item(
                ContourGeometricType=kind,
                NumberOfContourPoints=len(contour),
                ContourData=_ds(flip_lps(contour).ravel()),
            )
        dataset.ROIContourSequence.append(drawn)
    dataset.save_as(path, enforce_file_format=True)
    return dataset


def _ds(values: object) -> object:
    """Decimal strings: at most 16 characters."""
    if isinstance(values, (float, np.floating, int)):
        return next(text for digits in range(15, 5, -1) if len(text := f"{values:.{digits}g}") <= 16)
    return [_ds(float(value)) for value in values]  # type: ignore[attr-defined]
