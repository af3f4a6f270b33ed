"""De-identification: identifiers planted everywhere, and what the profile says of each attribute."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import DataElement, Dataset
from pydicom.data import get_testdata_file
from pydicom.datadict import DicomDictionary, dictionary_VR, keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from synthetic_dicom import slice_dataset, write_series
from synthetic_labels import oblique

from medkd.errors import InputError
from medkd.imaging.dicom.confidentiality import ACTIONS
from medkd.imaging.dicom.deidentify import KEPT, TEXT, Deidentifier
from medkd.imaging.dicom.find import find_series
from medkd.imaging.dicom.seg import Segment, read_segmentation
from medkd.imaging.dicom.seg_write import write_segmentation
from medkd.imaging.dicom.volumes import plan_volumes

SALT = bytes(range(16))
PLANTED = {
    "AE": "ZQXPAT_AE", "AS": "066Y", "CS": "ZQXPATIENT", "DA": "19610203", "DS": "196102037", "DT": "19610203041516",
    "IS": "196102037", "LO": "Zqxpatient Lo", "LT": "Zqxpatient Lt", "PN": "Zqxpatient^Josef", "SH": "Zqxpatient",
    "ST": "Zqxpatient St", "TM": "041516.777", "UC": "Zqxpatient Uc", "UI": "1.3.6.1.4.1.196102037.5",
    "UR": "http://zqxpatient.example", "UT": "Zqxpatient Ut",
}  # fmt: skip
TRACES = (b"zqxpat", b"josef", b"19610203", b"041516")


def written(dataset: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    dataset.file_meta.TransferSyntaxUID = syntax
    file = io.BytesIO()
    dataset.save_as(file, enforce_file_format=True)
    return file.getvalue()


def traces(content: bytes) -> list[bytes]:
    text = content.lower()
    wide = text.replace(b"\0", b"")  # of text in two bytes a letter
    return [trace for trace in TRACES if trace in text or trace in wide]


def attributes(vr: str) -> list[int]:
    """Tags of the dictionary with this representation that a data set may hold, those of the profile first."""
    known = [
        t for t, entry in DicomDictionary.items() if entry[0] == vr and t >> 16 not in (0, 2, 4) and t < 0x7FE00000
    ]
    return sorted(known, key=lambda tag: (tag not in ACTIONS, tag))


def planted(depth: int, every: bool = False) -> Dataset:
    """Identifiers in text of every representation, in private elements, and in sequences of sequences."""
    dataset = Dataset()
    for vr, value in PLANTED.items():
        tags = attributes(vr)
        numbers = vr in ("DS", "IS") and not every
        for tag in tags if every else [*tags[:6], *tags[-6:]]:
            if not (tag in KEPT and (numbers or vr in ("DS", "IS"))):  # numbers of the geometry are no identifiers
                dataset.add_new(tag, vr, value)
    block = dataset.private_block(0x0019, "ZQXPATIENT", create=True)
    for offset, vr in enumerate(PLANTED):
        block.add_new(offset, vr, PLANTED[vr])
    block.add_new(0x50, "OB", b"Zqxpatient private bytes")
    block.add_new(0x51, "UN", b"Zqxpatient private unknown")
    dataset.add(DataElement(0x00101010, "UN", b"Zqxpatient"))
    dataset.add(DataElement(0x60003000, "OW", b"Zqxpatient overlay"))
    dataset.add(DataElement(0x60004000, "LT", "Zqxpatient overlay comment"))
    dataset.add(DataElement(0x50003000, "OW", b"Zqxpatient curve!!"))
    dataset.add(DataElement(0x00420011, "OB", b"Zqxpatient document"))
    dataset.add(DataElement(0x00282000, "OB", b"Zqxpatient colour "))
    if depth:
        for number, tag in enumerate((0x0040A730, 0x52009229, 0x00081140, 0x00400275, 0x00620002, 0x00101002)):
            dataset.add_new(tag, "SQ", Sequence([planted(depth - 1 if number < 2 else 0)]))
        block.add_new(0x60, "SQ", Sequence([planted(0)]))
    return dataset


def image(dataset: Dataset) -> Dataset:
    base = slice_dataset(np.arange(30, dtype=np.int16).reshape(6, 5), oblique(), 0, "x")
    for element in dataset:
        if element.keyword not in (
            "SOPClassUID",
            "BurnedInAnnotation",
            "PhotometricInterpretation",
            "SpecificCharacterSet",
        ):
            base[element.tag] = element
    base.file_meta.SourceApplicationEntityTitle = "ZQXPATIENT"
    base.file_meta.ImplementationVersionName = "ZQXPATIENT"
    base.file_meta.PrivateInformationCreatorUID = "1.2.3"
    base.file_meta.PrivateInformation = b"Zqxpatient"
    base.preamble = b"Zqxpatient".ljust(128, b"\0")
    return base


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_nothing_that_was_planted_is_in_the_written_bytes(syntax: str) -> None:
    source = image(planted(3))
    content = written(source, syntax)
    assert set(traces(content)) == set(TRACES)
    again = pydicom.dcmread(io.BytesIO(content))
    for dataset in (source, again):  # as made, and as read: the latter is still undecoded
        clean = Deidentifier(SALT)(dataset)
        assert traces(written(clean, syntax)) == []


def test_every_text_attribute_of_the_dictionary_at_once() -> None:
    source = image(planted(0, every=True))
    assert len(source) > 2500
    assert traces(written(Deidentifier(SALT)(source))) == []


def test_without_the_patient_s_own_name_only_the_listed_words_could_stay() -> None:
    """The profile keeps text that it does not name; here it goes unless it is one of a short list."""
    for vr in sorted(TEXT - {"DS", "IS", "PN"}):
        source = Dataset()
        for tag in attributes(vr):
            source.add_new(tag, vr, PLANTED[vr])
        source = image(source)
        for keyword in ("PatientName", "PatientID", "AccessionNumber", "PatientBirthDate"):
            source[keyword].value = ""
        clean = Deidentifier(SALT)(source)
        stayed = {e.tag for e in clean if PLANTED[vr] in str(e.value)}
        assert stayed <= KEPT, [keyword_for_tag(tag) for tag in stayed - KEPT]


def test_every_action_of_the_table() -> None:
    """One attribute an action, by the words of the table; and all of it against the dictionary."""
    for tag, action in {
        0x00081030: "X", 0x00100010: "Z", 0x00080050: "Z", 0x00120020: "D", 0x0020000D: "U", 0x00080018: "U",
        0x00080022: "X/Z", 0x00080023: "Z/D", 0x00080070: None, 0x0008002A: "X/Z/D", 0x00181400: "X/D",
        0x00081140: "X/Z/U*", 0x00200052: "U", 0x00101010: "X", 0x00102160: "X", 0x00080080: "X/Z/D",
    }.items():  # fmt: skip
        assert ACTIONS.get(tag) == action, hex(tag)
    assert len(ACTIONS) == 652
    known = [tag for tag in ACTIONS if keyword_for_tag(tag)]
    assert len(known) > 600
    assert all(dictionary_VR(tag) == "UI" for tag in known if ACTIONS[tag] == "U")


def test_values_after_each_action() -> None:
    source = image(Dataset())
    source.StudyDescription, source.ContentDate, source.ContentTime = "a", "20200101", "101112"
    source.AcquisitionDate, source.AcquisitionDateTime = "20200101", "20200101101112"
    source.DeviceSerialNumber, source.ClinicalTrialProtocolID = "77", "trial"
    source.ReferencedImageSequence = Sequence([Dataset()])
    source.ReferencedImageSequence[0].ReferencedSOPInstanceUID = source.SOPInstanceUID
    source.ReferencedImageSequence[0].ReferencedSOPClassUID = source.SOPClassUID
    clean = Deidentifier(SALT, patient="p17")(source)
    assert "StudyDescription" not in clean
    assert (clean.StudyDate, clean.StudyTime, clean.AccessionNumber, clean.StudyID) == ("", "", "", "")
    assert (clean.PatientBirthDate, clean.PatientSex, clean.AcquisitionDate) == ("", "", "")
    assert (clean.ContentDate, clean.ContentTime, clean.AcquisitionDateTime) == ("19000101", "000000", "19000101000000")
    assert (clean.DeviceSerialNumber, clean.ClinicalTrialProtocolID) == ("REMOVED", "REMOVED")
    assert (str(clean.PatientName), clean.PatientID) == ("p17", "p17")
    assert (clean.PatientIdentityRemoved, clean.LongitudinalTemporalInformationModified) == ("YES", "REMOVED")
    assert clean.DeidentificationMethod.startswith("medkd")
    assert clean.DeidentificationMethodCodeSequence[0].CodeValue == "113100"
    for keyword in ("Rows", "Columns", "PixelSpacing", "ImagePositionPatient", "ImageOrientationPatient", "Modality",
                    "PixelData", "SOPClassUID", "InstanceNumber", "RescaleSlope"):  # fmt: skip
        assert clean[keyword].value == source[keyword].value, keyword
    assert clean.SOPInstanceUID == clean.file_meta.MediaStorageSOPInstanceUID != source.SOPInstanceUID
    (referenced,) = clean.ReferencedImageSequence
    assert referenced.ReferencedSOPInstanceUID == clean.SOPInstanceUID
    assert referenced.ReferencedSOPClassUID == source.SOPClassUID
    assert source.PatientID == "SYNTHETIC-1"  # the source is as it was


def test_codes_inside_a_sequence_that_the_profile_replaces_become_dummies() -> None:
    """ContentSequence (D) and PersonIdentificationCodeSequence (D): a code may be a person there, and only there."""
    source = image(Dataset())
    for keyword in ("ContentSequence", "PersonIdentificationCodeSequence", "AnatomicRegionSequence"):
        item, code = Dataset(), Dataset()
        code.CodeMeaning, code.CodeValue = "Chief of surgery", "CS-1"
        item.ConceptNameCodeSequence, item.CodeMeaning = Sequence([code]), "Chief of surgery"
        setattr(source, keyword, Sequence([item]))
    clean = Deidentifier(SALT)(source)
    for keyword, expected in (
        ("ContentSequence", "REMOVED"),
        ("PersonIdentificationCodeSequence", "REMOVED"),
        ("AnatomicRegionSequence", "Chief of surgery"),
    ):
        (item,) = clean[keyword].value
        assert item.CodeMeaning == item.ConceptNameCodeSequence[0].CodeMeaning == expected


def test_elements_of_another_representation_than_their_attribute_s_go() -> None:
    """Bytes where a code, a number or a UID should be: nobody looked at them."""
    source = image(Dataset())
    for keyword, vr, value in (
        ("FrameOfReferenceUID", "LO", "1.2.3.4567"),
        ("SoftwareVersions", "OB", b"Qwerty Smith"),
        ("ManufacturerModelName", "LT", "Qwerty Smith"),
        ("Columns", "SH", "Qwerty"),
    ):
        source[keyword] = DataElement(pydicom.tag.Tag(keyword), vr, value)
    clean = Deidentifier(SALT)(source)
    for keyword in ("FrameOfReferenceUID", "SoftwareVersions", "ManufacturerModelName", "Columns"):
        assert keyword not in clean, keyword


def test_uids_are_replaced_consistently_and_only_with_the_salt() -> None:
    one, same, other = Deidentifier(SALT), Deidentifier(SALT), Deidentifier(SALT[::-1])
    uid = "1.3.6.1.4.1.14519.5.2.1.1"
    assert one.uid(uid) == same.uid(uid) != other.uid(uid)
    assert one.uid(uid) != one.uid(uid + ".1")
    for n in range(200):
        made = pydicom.uid.UID(one.uid(f"1.2.{n}"))
        assert made.is_valid
        assert made.startswith("2.25.")
    assert one.uid("1.2.840.10008.5.1.4.1.1.2") == "1.2.840.10008.5.1.4.1.1.2"
    with pytest.raises(ValueError, match="can be guessed"):
        Deidentifier(b"short")
    assert "x00" not in repr(one)


def test_burned_in_annotation_is_refused() -> None:
    source = image(Dataset())
    source.BurnedInAnnotation = "YES"
    with pytest.raises(InputError, match="burned into the pixels"):
        Deidentifier(SALT)(source)
    source.BurnedInAnnotation = "NO"
    assert Deidentifier(SALT)(source).BurnedInAnnotation == "NO"


@pytest.mark.parametrize(
    "name",
    ["CT_small.dcm", "MR_small.dcm", "JPEG2000.dcm", "rtplan.dcm", "reportsi.dcm", "liver.dcm", "UN_sequence.dcm"],
)
def test_real_files_lose_the_patient_and_keep_their_pixels(name: str) -> None:
    source = pydicom.dcmread(str(get_testdata_file(name)))
    clean = Deidentifier(SALT)(source)
    content = written(clean, source.file_meta.TransferSyntaxUID)
    again = pydicom.dcmread(io.BytesIO(content))
    for keyword in ("PatientName", "PatientID"):
        value = str(source.get(keyword, "")).encode()
        assert len(value) < 4 or value not in content
    assert not [element for element in again.iterall() if element.tag.is_private]
    if "PixelData" in source:
        assert again.PixelData == source.PixelData


def test_a_segmentation_is_written_without_the_patient_and_still_fits_its_source(tmp_path: Path) -> None:
    shape = (7, 6, 5)

    def plant(dataset: Dataset, _: int) -> None:
        dataset.update({e.tag: e for e in planted(1) if e.keyword not in ("SOPClassUID", "Rows", "Columns")
                        and e.tag not in KEPT and e.VR != "UI"})  # fmt: skip
        dataset.PatientName, dataset.PatientID, dataset.Manufacturer = "Zqxpatient^Josef", "19610203", "Zqxpatient GmbH"

    write_series(tmp_path / "s", np.zeros(shape, np.int16), oblique(), plant)
    volume = plan_volumes(find_series(tmp_path / "s").series[0])[0]
    mask = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    segments, deidentifier = [Segment(1, "liver"), Segment(2, "spleen")], Deidentifier(SALT, "p17")
    write_segmentation(tmp_path / "m.dcm", mask, volume.affine, segments, volume, deidentifier=deidentifier)
    write_segmentation(tmp_path / "k.dcm", mask, volume.affine, segments, volume, deidentifier=None)
    content, kept = (tmp_path / "m.dcm").read_bytes(), (tmp_path / "k.dcm").read_bytes()
    assert traces(content) == []
    assert traces(kept)
    for header in volume.series.headers:
        assert header.SOPInstanceUID.encode() in kept
        assert header.SOPInstanceUID.encode() not in content
    found = read_segmentation(tmp_path / "m.dcm", volume)
    assert np.array_equal(found.merged(), mask)
    assert [segment.label for segment in found.segments] == ["liver", "spleen"]
    assert found.source_series == deidentifier.uid(volume.series.uid)
    assert found.reference == deidentifier.uid(volume.series.headers[0].FrameOfReferenceUID)
    assert pydicom.dcmread(tmp_path / "m.dcm").PatientID == "p17"
    (again,) = find_series(tmp_path / "m.dcm").series
    assert again.patient == "p17"


def test_an_empty_data_set_becomes_one_that_says_so() -> None:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    assert Deidentifier(SALT)(dataset).PatientIdentityRemoved == "YES"
