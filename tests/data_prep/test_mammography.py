"""CBIS-DDSM, INbreast and RSNA, each on a generated tree of its published structure: none of the data is here."""

from __future__ import annotations

import csv
import importlib.util
import json
import plistlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from pydicom import Dataset
from synthetic_dicom import slice_dataset

from medkd.data.detection_dataset import read_hidden_boxes
from medkd.data.image_files import read_image
from medkd.errors import InputError
from medkd.imaging.dicom.picture import read_picture

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
SHAPE = (60, 40)


def script(name: str) -> ModuleType:
    path = Path(__file__).parents[2] / "data_prep" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def dicom(path: Path, pixels: np.ndarray, patient: str = "Miller", **changes: object) -> Dataset:
    """A mammogram (H, W) uint16 as one DICOM file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = slice_dataset(pixels.T, np.diag([0.1, 0.1, 1, 1.0]), 0, f"{path.parent.name} {path.name}"[:60])
    data.Modality, data.PatientID, data.PatientName = "MG", patient, patient
    for name, value in changes.items():
        setattr(data, name, value)
    if "SOPClassUID" in changes:
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.save_as(path, enforce_file_format=True)
    return data


def film(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(100, 4000, SHAPE).astype(np.uint16)


def test_pictures(tmp_path: Path) -> None:
    """Bright is dense in both photometric interpretations; text in the pixels and colour are refused."""
    pixels = film(0)
    dicom(tmp_path / "a.dcm", pixels, RescaleSlope=1, RescaleIntercept=0, ImagerPixelSpacing=[0.07, 0.08])
    found = read_picture(tmp_path / "a.dcm")
    np.testing.assert_array_equal(found.pixels, pixels)
    assert (found.spacing, found.patient) == ((0.07, 0.08), "Miller")
    assert "Miller" not in repr(found)
    dicom(tmp_path / "b.dcm", pixels, RescaleIntercept=0, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read_picture(tmp_path / "b.dcm").pixels, 65535 - pixels.astype(int))
    dicom(tmp_path / "c.dcm", pixels, SOPClassUID=SECONDARY_CAPTURE)
    with pytest.raises(InputError, match="may name the patient"):
        read_picture(tmp_path / "c.dcm")
    (tmp_path / "d.dcm").write_bytes(b"nothing")
    with pytest.raises(InputError, match="not DICOM"):
        read_picture(tmp_path / "d.dcm")


def test_inbreast(tmp_path: Path) -> None:
    for number in range(12):
        name = f"{20586908 + number}_{number // 2:08x}_MG_{'LR'[number % 2]}_CC_ANON.dcm"
        dicom(tmp_path / "in" / "AllDICOMs" / name, film(number), RescaleIntercept=0)
    outline = {"Name": "Mass", "Point_px": ["(10.0, 20.0)", "(30.5, 22.0)", "(12.0, 41.25)"]}
    other = {"Name": "Calcification", "Point_px": ["(1.0, 2.0)"]}
    (tmp_path / "in" / "AllXML").mkdir()
    (tmp_path / "in" / "AllXML" / "20586908.xml").write_bytes(plistlib.dumps({"Images": [{"ROIs": [outline, other]}]}))
    data = script("inbreast").prepare_inbreast(tmp_path / "in", tmp_path / "out")
    assert len(data.cases) == 12
    assert (data.unit, len({case.patient for case in data.cases})) == ("patient", 6)
    boxes = [box for found in data.boxes.values() for box in found.boxes.tolist()]
    assert boxes == [[9.5, 19.5, 31, 41.75]]
    assert data.cases[0].spacing == pytest.approx((0.1, 0.1))
    assert read_image(data.cases[0].image).dtype == np.uint16
    (tmp_path / "in" / "AllXML" / "20586909.xml").write_text('<!DOCTYPE x [<!ENTITY a "b">]><plist>&a;</plist>')
    with pytest.raises(InputError, match="not a list of outlines"):
        script("inbreast").prepare_inbreast(tmp_path / "in", tmp_path / "again")


def test_rsna(tmp_path: Path) -> None:
    source = tmp_path / "in"
    rows = [[100 + n // 2, 5000 + n] for n in range(24)]
    for patient, image in rows:
        dicom(source / "train_images" / str(patient) / f"{image}.dcm", film(image), str(patient), RescaleIntercept=0)
    with (source / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["patient_id", "image_id"], *rows])
    content = {
        "images": [{"id": n, "file_name": f"bsd/{5000 + n}.png"} for n in range(20)],
        "annotations": [{"id": n, "image_id": n, "category_id": 0, "bbox": [3, 4, 10, 20 + n]} for n in range(20)],
        "categories": [{"id": 0, "name": "mal"}],
    }
    (tmp_path / "boxes.json").write_text(json.dumps(content))
    data = script("rsna_breast").prepare_rsna(source, tmp_path / "out", tmp_path / "boxes.json", "none")
    assert len(data.cases) == 20
    assert len(read_hidden_boxes(data)) == len(data.select("train"))
    everything = {**data.boxes, **read_hidden_boxes(data)}
    assert sorted(float(b.boxes[0, 3]) for b in everything.values()) == [24 + n for n in range(20)]
    alone = script("rsna_breast").prepare_rsna(source, tmp_path / "alone")
    assert len(alone.select("train", labelled=False)) == 24
    assert (alone.unit, len({case.patient for case in alone.cases})) == ("patient", 12)


def test_cbis(tmp_path: Path) -> None:
    source = tmp_path / "in"
    head = ["patient_id", "image file path", "cropped image file path", "ROI mask file path"]
    for split, patients in (("train", range(1, 11)), ("test", range(11, 14))):
        rows = []
        for n in patients:
            name = f"Mass-{'Training' if split == 'train' else 'Test'}_P_{n:05d}_LEFT_CC"
            dicom(source / name / "1" / "1" / "1-1.dcm", film(n), name, SOPClassUID=SECONDARY_CAPTURE)
            mask = np.zeros(SHAPE, np.uint16)
            mask[10:20, 5 : 15 + n] = 255
            dicom(source / f"{name}_1" / "1" / "1" / "1-1.dcm", mask[10:30, 5:20], name, SOPClassUID=SECONDARY_CAPTURE)
            dicom(source / f"{name}_1" / "1" / "1" / "1-2.dcm", mask, name, SOPClassUID=SECONDARY_CAPTURE)
            paths = [f"{name}/1/1/000000.dcm", f"{name}_1/1/1/000001.dcm", f"{name}_1/1/1/000000.dcm\n"]
            rows.append([f"P_{n:05d}", *paths])
        with (source / f"mass_case_description_{split}_set.csv").open("w", newline="") as file:
            csv.writer(file).writerows([head, *rows])
    data = script("cbis_ddsm").prepare_cbis(source, tmp_path / "out")
    assert [len(data.select(s)) for s in ("train", "val", "test")] == [9, 1, 3]
    boxes = sorted(found.boxes[0].tolist() for found in data.boxes.values())
    assert boxes == [[5, 10, 15 + n, 20] for n in range(1, 14)]
