"""Integer masks as DICOM segmentations of the series they belong to, for viewers and archives. Written by highdicom."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom as hd
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
from medkd.imaging.dicom.seg_source import pixel_measures, plane_orientation, plane_position, source_headers
from medkd.imaging.dicom.volumes import Volume
from medkd.imaging.geometry import realign

SERIES_NUMBER = 300  # beyond those of scanners, so that viewers list it last


def write_segmentation(
    path: Path,
    mask: np.ndarray,
    affine: np.ndarray,
    segments: Sequence[Segment],
    source: Volume,
    *,
    deidentifier: Deidentifier | None,
    algorithm: str = "medkd",
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
    try:
        dataset = _segmentation(pixels.astype(np.min_scalar_type(len(segments))), segments, source, algorithm)
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        # its message may hold what the header says of the patient; one about a missing attribute does not
        why = f": {error}" if isinstance(error, AttributeError) else ""
        raise InputError(f"a header of the source lacks what a segmentation needs, or is malformed{why}") from None
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


def _segmentation(pixels: np.ndarray, segments: Sequence[Segment], source: Volume, algorithm: str) -> Dataset:
    """pixels: (Z, Y, X), in the order of the frames of the source."""
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
    with quiet:
        return hd.seg.Segmentation(
            source_images=source_headers(source),
            pixel_array=pixels,
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=described,
            series_instance_uid=generate_uid(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=generate_uid(),
            instance_number=1,
            manufacturer="medkd",
            manufacturer_model_name=algorithm,
            software_versions=__version__,
            device_serial_number="1",
            plane_positions=[plane_position(source, z) for z in range(len(source.frames))],
            plane_orientation=plane_orientation(source),
            pixel_measures=pixel_measures(source),
            series_description=f"{algorithm} segmentation",
            specific_character_set="ISO_IR 192",  # UTF-8 holds the names of every source
        )
