"""The source of a segmentation as highdicom wants it: headers of the series, completed, with the geometry of the plan.

Real headers lack attributes that the standard demands, spell them wrongly, or round the orientation of every slice
differently. The plan of the volume was checked; so what is handed on states its geometry, once for all slices.
"""

from __future__ import annotations

from collections.abc import Sequence

import highdicom as hd
import numpy as np
from pydicom import Dataset
from pydicom.config import RAISE
from pydicom.datadict import dictionary_VR
from pydicom.sequence import Sequence as Items
from pydicom.uid import generate_uid
from pydicom.valuerep import DSfloat, validate_value

from medkd.imaging.dicom import tags
from medkd.imaging.dicom.values import integer, text
from medkd.imaging.dicom.volumes import Volume
from medkd.imaging.geometry import flip_lps

WANTED = (
    "PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
"""What the standard wants in every file of a study, be it empty."""
LAST_GROUP = 0x0040
"""Of patient, study, equipment, geometry and specimen; the functional groups behind it are made anew."""
ELSEWHERE = 1e7
"""mm: where frames of other volumes of a multi-frame file are put, so that no frame is derived from them."""


def source_headers(source: Volume) -> list[Dataset]:
    """A header for every file, in the order of the slices; those of the series stay as they are."""
    headers = source.series.headers
    files = list(dict.fromkeys(file for file, _ in source.frames))
    completed = [_complete(headers[file]) for file in files]
    if len(files) < len(source.frames) or (integer(headers[files[0]], tags.NUMBER_OF_FRAMES, "IS") or 1) > 1:
        _place_frames(completed[0], source)
    else:
        for z, header in enumerate(completed):
            for group in (plane_position(source, z), plane_orientation(source), pixel_measures(source)):
                header.update({element.tag: element for element in group[0]})
    return completed


def plane_position(source: Volume, z: int) -> hd.PlanePositionSequence:
    """Where the slice z begins."""
    return hd.PlanePositionSequence(hd.CoordinateSystemNames.PATIENT, flip_lps(source.origins[z]).tolist())


def plane_orientation(source: Volume) -> hd.PlaneOrientationSequence:
    """The directions of rows and columns."""
    lps = flip_lps(source.affine)[:3, :2]
    return hd.PlaneOrientationSequence(
        hd.CoordinateSystemNames.PATIENT, (lps / np.linalg.norm(lps, axis=0)).T.ravel().tolist()
    )


def pixel_measures(source: Volume) -> hd.PixelMeasuresSequence:
    """Pixel spacing and slice distance, which is written as the thickness too."""
    x, y, z = np.linalg.norm(source.affine[:3, :3], axis=0).tolist()
    return hd.PixelMeasuresSequence(pixel_spacing=(y, x), slice_thickness=z, spacing_between_slices=z)


def _place_frames(header: Dataset, source: Volume) -> None:
    """Functional groups that hold the geometry of the plan alone."""
    shared = Dataset()
    shared.PlaneOrientationSequence, shared.PixelMeasuresSequence = plane_orientation(source), pixel_measures(source)
    slices = {frame: z for z, (_, frame) in enumerate(source.frames)}
    groups = []
    for frame in range(integer(header, tags.NUMBER_OF_FRAMES, "IS") or 1):
        group, place = Dataset(), Dataset()
        place.ImagePositionPatient = [DSfloat(ELSEWHERE + frame)] * 3
        known = frame in slices
        group.PlanePositionSequence = plane_position(source, slices[frame]) if known else Items([place])
        groups.append(group)
    _set(header, "SharedFunctionalGroupsSequence", [shared])
    _set(header, "PerFrameFunctionalGroupsSequence", groups)


def _complete(header: Dataset) -> Dataset:
    """A copy with empty values for what is wanted and lacking or malformed, and with a frame of reference: where the
    source has none, its series is one."""
    dataset = Dataset()  # a copy.copy would share its elements, and what is changed below, with the header
    for tag in list(header.keys()):
        if tag.is_private or tag.group > LAST_GROUP:
            continue
        try:
            dataset.add(header[tag])
        except Exception:  # pydicom raises whatever a malformed value makes it raise
            continue
    for keyword in WANTED:
        value = str(dataset.get(keyword, "") or "")
        try:
            validate_value(dictionary_VR(keyword), value, RAISE)
        except ValueError:
            value = ""
        _set(dataset, keyword, "" if keyword == "PatientSex" and value not in ("M", "F", "O") else value)
    if not text(dataset, tags.FRAME_OF_REFERENCE_UID):
        uid = generate_uid(entropy_srcs=[text(dataset, tags.SERIES_INSTANCE_UID)])
        _set(dataset, "FrameOfReferenceUID", uid)
    return dataset


def _set(dataset: Dataset, keyword: str, value: str | Sequence[Dataset]) -> None:
    """As an element of its own: the others are shared with the header of the series."""
    dataset.add_new(keyword, dictionary_VR(keyword), value)
