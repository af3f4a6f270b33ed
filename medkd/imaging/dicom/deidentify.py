"""DICOM data sets without the patient: the basic application level confidentiality profile of PS3.15, and stricter.

What the profile's table names is treated as it says (`confidentiality`). Of what it does not name it says nothing, so
text could stay in hundreds of attributes: here only text listed in KEPT stays, numbers in text form included, and of
that none that holds a name or number of the patient. Numbers in binary form and the pixels stay.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_has_tag, dictionary_VR, tag_for_keyword
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence

from medkd import __version__
from medkd.errors import InputError
from medkd.imaging.dicom.confidentiality import ACTIONS
from medkd.imaging.dicom.quiet import quiet

REGISTERED = "1.2.840.10008."
"""The root of the UIDs that the standard itself defines: classes, syntaxes, well-known frames of reference."""
TEXT = {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UR", "UT"}
BULK = {"OB", "OD", "OF", "OL", "OV", "OW", "UN"}
KEPT_CODES = """
    AcquisitionContrast BodyPartExamined BurnedInAnnotation ComplexImageComponent ContentLabel
    DimensionOrganizationType FrameLaterality FrameType ImageLaterality ImageType Laterality LossyImageCompression
    LossyImageCompressionMethod Modality PatientPosition PhotometricInterpretation PixelPresentation
    PresentationLUTShape RescaleType SegmentAlgorithmType SegmentationFractionalType SegmentationType SegmentsOverlap
    SpatialLocationsPreserved SpecificCharacterSet VolumeBasedCalculationTechnique VolumetricProperties
    MappingResource ContextIdentifier
"""
KEPT_NUMBERS = """
    AcquisitionNumber EchoNumbers EchoTime FlipAngle ImageOrientationPatient ImagePositionPatient InstanceNumber
    InversionTime KVP LossyImageCompressionRatio MagneticFieldStrength NumberOfFrames PixelAspectRatio PixelSpacing
    RepetitionTime RescaleIntercept RescaleSlope SeriesNumber SliceLocation SliceThickness SpacingBetweenSlices
    TemporalPositionIdentifier WindowCenter WindowWidth
"""
KEPT_WORDS = """
    AlgorithmName AlgorithmVersion CodeMeaning CodeValue CodingSchemeDesignator CodingSchemeVersion
    DimensionDescriptionLabel LongCodeValue Manufacturer ManufacturerModelName SegmentAlgorithmName SegmentLabel
    SoftwareVersions
"""
KEPT_BULK = """
    PixelData FloatPixelData DoubleFloatPixelData ExtendedOffsetTable ExtendedOffsetTableLengths
    RedPaletteColorLookupTableData GreenPaletteColorLookupTableData BluePaletteColorLookupTableData
"""
KEPT = {tag_for_keyword(word) for word in f"{KEPT_CODES} {KEPT_NUMBERS} {KEPT_WORDS} {KEPT_BULK}".split()}
CODE = re.compile(r"[A-Z0-9_ .\-/\\]*")
NUMBER = re.compile(r"[0-9+\-.eE ]*")
DUMMY = {
    "AS": "000Y", "DA": "19000101", "DS": "0", "DT": "19000101000000", "IS": "0", "TM": "000000", "AT": 0, "FD": 0.0,
    "FL": 0.0, "SL": 0, "SS": 0, "SV": 0, "UL": 0, "US": 0, "UV": 0,
} | dict.fromkeys(BULK, b"\0\0")  # fmt: skip
REMOVED = "REMOVED"
PATIENT_NAME, PATIENT_ID = 0x00100010, 0x00100020
IDENTIFYING = {PATIENT_ID, 0x00080050, 0x00100030}  # with the accession number and the date of birth
SHORTEST = 4  # characters of an identifier that is looked for in what is kept: shorter ones occur everywhere


@dataclass(frozen=True)
class Deidentifier:
    """Takes the patient out of data sets.

    salt: secret bytes, 16 or more; equal UIDs become equal UIDs as long as it stays the same, and nobody without it can
    go back or confirm a guess. patient: what PatientID and PatientName become; empty as the profile has it.
    """

    salt: bytes = field(repr=False)
    patient: str = ""

    def __post_init__(self) -> None:
        if len(self.salt) < 16:
            raise ValueError(f"a salt of {len(self.salt)} bytes can be guessed; give 16 or more")

    def uid(self, uid: str) -> str:
        """The UID that replaces another, in the 2.25 form; those of the standard itself stay."""
        if not uid or uid.startswith(REGISTERED):
            return uid
        return f"2.25.{int.from_bytes(hmac.digest(self.salt, uid.encode(), hashlib.sha256)[:16])}"

    def __call__(self, dataset: Dataset) -> Dataset:
        """A new data set, file meta information included, without the patient; the pixels are the same.

        Raises InputError where the header says that text is burned into the pixels: no header can take that out.
        """
        if str(dataset.get("BurnedInAnnotation", "")).strip().upper() == "YES":
            raise InputError("the header says that annotation is burned into the pixels; it would stay in them")
        with quiet:
            names = frozenset(_identifiers(dataset))
            clean = self._clean(dataset, names)
        for tag, vr in ((PATIENT_NAME, "PN"), (PATIENT_ID, "LO")):
            clean.add_new(tag, vr, self.patient)
        clean.PatientIdentityRemoved = "YES"
        clean.DeidentificationMethod = f"medkd {__version__}: PS3.15 basic profile, and no other text"
        clean.DeidentificationMethodCodeSequence = Sequence([_basic_profile()])
        clean.LongitudinalTemporalInformationModified = "REMOVED"
        clean.file_meta = self._file_meta(dataset)
        return clean

    def _file_meta(self, dataset: Dataset) -> FileMetaDataset:
        """Of the old one only the class and the transfer syntax; pydicom adds its own version."""
        meta = FileMetaDataset()
        old = getattr(dataset, "file_meta", Dataset())
        for keyword in ("MediaStorageSOPClassUID", "MediaStorageSOPInstanceUID", "TransferSyntaxUID"):
            if value := str(old.get(keyword, "")):
                setattr(meta, keyword, value if keyword == "TransferSyntaxUID" else self.uid(value))
        return meta

    def _clean(self, dataset: Dataset, names: frozenset[str], dummies: bool = False) -> Dataset:
        """dummies: inside a sequence that the profile replaces, no text stays."""
        clean = Dataset()
        for tag in sorted(dataset.keys()):
            try:
                old = dataset[tag]
            except Exception:  # pydicom raises whatever a malformed value makes it raise
                continue
            if (new := self._element(old, names, dummies)) is not None:
                clean.add(new)
        return clean

    def _element(self, old: DataElement, names: frozenset[str], dummies: bool) -> DataElement | None:
        """What becomes of an element; None: it is removed."""
        tag, vr = old.tag, str(old.VR)
        action = _action(tag, vr)
        if action == "X":
            return None
        if action == "Z":
            return DataElement(tag, vr, Sequence() if vr == "SQ" else "")
        if vr == "SQ":
            items = [self._clean(item, names, dummies or action == "D") for item in old.value or []]
            return DataElement(tag, vr, Sequence(items))
        if vr == "UI":
            values = [old.value] if isinstance(old.value, str) else list(old.value or [])
            return DataElement(tag, vr, [self.uid(str(value)) for value in values])
        if action == "D" or (dummies and vr in TEXT) or not _is_harmless(old, vr, names):
            return DataElement(tag, vr, DUMMY.get(vr, REMOVED))
        return DataElement(tag, vr, old.value, is_undefined_length=old.is_undefined_length)


def _action(tag: int, vr: str) -> str:
    """X, Z, D, U, or K (keep). Of several that the profile allows, the one that every object's definition allows.

    Text that neither the profile nor KEPT names is emptied: required attributes stay, be it without a value.
    """
    group, element = tag >> 16, tag & 0xFFFF
    overlay = group & 0xFF00 == 0x6000 and element in (0x3000, 0x4000)
    if group % 2 or group & 0xFF00 == 0x5000 or overlay or element == 0 or not _is_as_defined(tag, vr):
        return "X"
    stated = ACTIONS.get(tag)
    if stated is None:
        return "K" if tag in KEPT else "Z" if vr in TEXT else "X" if BULK & set(vr.split(" or ")) else "K"
    return "U" if stated == "X/Z/U*" else stated.rsplit("/", 1)[-1]


def _is_as_defined(tag: int, vr: str) -> bool:
    """Whether an element has the representation of its attribute: bytes where text should be are never looked at."""
    return not dictionary_has_tag(tag) or bool(set(vr.split(" or ")) & set(dictionary_VR(tag).split(" or ")))


def _is_harmless(element: DataElement, vr: str, names: frozenset[str]) -> bool:
    """Codes and numbers that are such, and words that hold none of the identifiers of this data set."""
    if vr not in TEXT:
        return True
    value = element.value
    text = "\\".join(map(str, value)) if isinstance(value, (list, tuple)) or hasattr(value, "append") else str(value)
    if vr == "CS":
        return bool(CODE.fullmatch(text)) and not any(name in text.casefold() for name in names)
    if vr in ("DS", "IS"):
        return bool(NUMBER.fullmatch(text.replace("\\", " ")))
    return not any(name in text.casefold() for name in names)


def _identifiers(dataset: Dataset) -> Iterator[str]:
    """Parts of the names of persons, the patient's number, ... at any depth."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # as in _clean
            continue
        if element.VR == "SQ":
            for item in element.value or []:
                yield from _identifiers(item)
        elif element.VR == "PN" or tag in IDENTIFYING:
            parts = re.split(r"[\^=\\\s]+", str(element.value).casefold())
            yield from (part for part in parts if len(part) >= SHORTEST)


def _basic_profile() -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator = "113100", "DCM"
    code.CodeMeaning = "Basic Application Confidentiality Profile"
    return code
