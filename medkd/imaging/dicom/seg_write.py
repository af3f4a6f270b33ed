"""Integer masks as DICOM segmentations of the series they belong to, for viewers and archives. Written by highdicom."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydicom import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import generate_uid

from medkd import __version__
from medkd.errors import InputError, raise_all
from medkd.imaging.dicom import mosaic
from medkd.imaging.dicom.deidentify import Deidentifier
from medkd.imaging.dicom.quiet import quiet
from medkd.imaging.dicom.seg import Segment
from medkd.imaging.dicom.volumes import Volume
from medkd.imaging.geometry import flip_lps, realign

COPIED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What the standard wants in every file of a study, be it empty; many files lack some of it."""


def write_segmentation(
    path: Path,
    mask: np.ndarray,
    affine: np.ndarray,
    segments: Sequence[Segment],
    source: Volume,
    *,
    deidentifier: Deidentifier | None,
    algorithm: str = "medkd",
    series_number: int = 300,
) -> None:
    """Write a mask as a binary DICOM SEG that refers to the images of its source. Whole or not at all.

    mask: (X, Y, Z) of an integer type, 0 is the background, other values are segment numbers. affine: (4, 4) voxel to
    RAS mm; the axes may have any order, but its voxels must be those of the source. segments: numbered from 1 without
    a gap; those without voxels are described but have no frames. deidentifier: what takes the patient out of the file
    and replaces every UID, references to the source included; None keeps both, so that the file opens over its source
    in the archive. algorithm: its name, for the segment description. Raises InputError.
    """
    _check(mask, segments, source)
    try:
        pixels = realign(mask, affine, source).transpose(2, 1, 0)
    except InputError as error:
        raise InputError([f"the mask does not lie on its source: {problem}" for problem in error.problems]) from None
    dataset = _segmentation(
        pixels.astype(np.uint16 if len(segments) > 255 else np.uint8), segments, source, algorithm, series_number
    )
    if deidentifier is not None:
        dataset = deidentifier(dataset)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.partial")
    dataset.save_as(temporary, enforce_file_format=True)
    temporary.replace(path)


def _check(mask: np.ndarray, segments: Sequence[Segment], source: Volume) -> None:
    problems = []
    numbers = [segment.number for segment in segments]
    if mask.dtype.kind not in "iub" or mask.ndim != 3:
        problems.append(f"the mask is {mask.ndim}-D of {mask.dtype}; a 3-D mask of whole numbers is needed")
    elif strange := sorted(set(np.unique(mask).tolist()) - {0, *numbers}):
        problems.append(f"the mask holds {strange[:6]}, but the segments are numbered {numbers}")
    if not numbers or numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"segments are numbered {numbers}; DICOM wants 1, 2, 3, ... without a gap")
    problems += [f"segment {s.number} has no label" for s in segments if not s.label.strip()]
    files = {file for file, _ in source.frames}
    if not source.regular or source.problems:
        problems.append(f"the source series is no regular volume: {'; '.join(source.problems)}")
    elif any(mosaic.is_mosaic(source.series.headers[file]) for file in files):
        problems.append("the source is a mosaic, whose slices are no frames that a segmentation can refer to")
    elif len(files) not in (1, len(source.frames)):
        problems.append("the source is spread over several multi-frame files")
    raise_all(problems)


def _segmentation(
    pixels: np.ndarray, segments: Sequence[Segment], source: Volume, algorithm: str, series_number: int
) -> Dataset:
    """pixels: (Z, Y, X), in the order of the frames of the source."""
    import highdicom as hd  # half a second

    headers = source.series.headers
    files = list(dict.fromkeys(file for file, _ in source.frames))
    identification = hd.AlgorithmIdentificationSequence(
        name=algorithm, family=codes.cid7162.ArtificialIntelligence, version=__version__
    )
    described = [
        hd.seg.SegmentDescription(
            segment_number=segment.number,
            segment_label=segment.label[:64],
            segmented_property_category=segment.category,
            segmented_property_type=segment.type,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=identification,
        )
        for segment in segments
    ]
    lps = flip_lps(source.affine)
    sizes = np.linalg.norm(lps[:3, :3], axis=0)
    directions = lps[:3, :2] / sizes[:2]
    with quiet:  # of unusual but valid values in the source
        return hd.seg.Segmentation(
            source_images=[_complete(headers[file]) for file in files],
            pixel_array=pixels,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=series_number,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="medkd",
            manufacturer_model_name=algorithm,
            software_versions=__version__,
            device_serial_number="1",
            plane_positions=[
                hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, tuple(origin))
                for origin in flip_lps(source.origins)
            ],
            plane_orientation=hd.PlaneOrientationSequence(hd.CoordinateSystemNames.PATIENT, directions.T.ravel()),
            pixel_measures=hd.PixelMeasuresSequence(
                pixel_spacing=(sizes[1], sizes[0]), slice_thickness=sizes[2], spacing_between_slices=sizes[2]
            ),
            series_description=f"{algorithm} segmentation",
        )


def _complete(header: Dataset) -> Dataset:
    """A copy with empty values for what the standard wants and the source lacks."""
    dataset = copy.copy(header)
    for keyword in COPIED:
        if keyword not in dataset:
            setattr(dataset, keyword, "")
    return dataset
