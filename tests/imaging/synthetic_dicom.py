"""Small DICOM series written with pydicom, on any grid: for the tests of everything that reads DICOM."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

from medkd.imaging.geometry import flip_lps

Edit = Callable[[Dataset, int], None]


def write_series(
    folder: Path, array: np.ndarray, affine: np.ndarray, edit: Edit | None = None, seed: str = "series"
) -> list[Path]:
    """Write array (X, Y, Z) of an integer type as one CT file a slice, and give the paths in order of Z.

    affine: (4, 4) voxel to RAS mm; columns 0 and 1 must be perpendicular; a third that leans from their normal is a
    gantry tilt. edit(dataset, z) changes a slice before it is written. seed: series of one folder need different ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for z in range(array.shape[2]):
        dataset = slice_dataset(array[:, :, z], affine, z, seed)
        if edit:
            edit(dataset, z)
        paths.append(folder / f"{seed}_{z:04d}.dcm")
        dataset.save_as(paths[-1], enforce_file_format=True)
    return paths


def slice_dataset(pixels: np.ndarray, affine: np.ndarray, z: int, seed: str) -> Dataset:
    """The CT dataset of one slice, pixels (X, Y), that lies at index z of the grid."""
    lps = flip_lps(np.asarray(affine, np.float64))
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = CTImageStorage
    dataset.SOPInstanceUID = generate_uid(entropy_srcs=[seed, str(z)])
    dataset.StudyInstanceUID = generate_uid(entropy_srcs=["study"])
    dataset.SeriesInstanceUID = generate_uid(entropy_srcs=[seed])
    dataset.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame"])
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientID, dataset.PatientName = "SYNTHETIC-1", "Synthetic^Patient"
    dataset.PatientBirthDate, dataset.PatientSex = "19500101", "O"
    dataset.StudyDate, dataset.StudyTime, dataset.StudyID, dataset.AccessionNumber = "20200101", "120000", "1", "A1"
    dataset.Modality, dataset.SeriesDescription, dataset.SeriesNumber = "CT", f"synthetic {seed}", 1
    dataset.InstanceNumber = z + 1
    dataset.ImageOrientationPatient = [
        round(float(v), 12) for v in (*(lps[:3, 0] / sizes[0]), *(lps[:3, 1] / sizes[1]))
    ]
    dataset.ImagePositionPatient = [_ds(v) for v in (lps @ [0, 0, z, 1])[:3]]
    dataset.PixelSpacing = [_ds(sizes[1]), _ds(sizes[0])]
    dataset.SliceThickness = _ds(sizes[2])
    dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
    dataset.Columns, dataset.Rows = pixels.shape
    dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
    dataset.HighBit = dataset.BitsStored - 1
    dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
    dataset.RescaleSlope, dataset.RescaleIntercept = 1, 0
    dataset.PixelData = np.ascontiguousarray(pixels.T).astype(pixels.dtype.newbyteorder("<")).tobytes()
    return dataset


def _ds(value: float) -> str:
    """A decimal string: at most 16 characters."""
    return next(text for digits in range(15, 5, -1) if len(text := f"{value:.{digits}g}") <= 16)
