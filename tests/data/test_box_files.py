"""COCO, VOC and CSV boxes, joined by the name of the image, and XML that attacks."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medkd.data.box_files import read_box_file
from medkd.errors import InputError

VOC = """<annotation><filename>{name}.jpg</filename><size><width>100</width><height>80</height></size>
<object><name>mass</name><bndbox><xmin>{x}</xmin><ymin>11</ymin><xmax>30</xmax><ymax>40</ymax></bndbox></object>
</annotation>"""


def test_csv(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text(
        "image,split,label,xmin,ymin,xmax,ymax\na.png,train,cell,1,2,3,4\nb.png,val,,,,,\na.png,,wbc,0,0,9,9\n"
    )
    found = read_box_file(path)
    assert found.images["a.png"].boxes == [("cell", (1, 2, 3, 4)), ("wbc", (0, 0, 9, 9))]
    assert found.images["b.png"].boxes == []
    assert found.images["b.png"].split == "val"
    assert found.classes == ("cell", "wbc")


def test_csv_in_3d(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("image,label,xmin,ymin,zmin,xmax,ymax,zmax\na.nii.gz,nodule,1,2,3,4,5,6\n")
    assert read_box_file(path).images["a.nii.gz"].boxes == [("nodule", (1, 2, 3, 4, 5, 6))]


def test_csv_problems(tmp_path: Path) -> None:
    path = tmp_path / "boxes.csv"
    path.write_text("image,split,label,xmin,ymin,xmax,ymax\na,train,cell,1,2,x,4\na,val,,,,,\nb,,,1,2,3,4\n")
    text = "\n".join(read_box_file(path).problems)
    for part in ("line 2", "'val', and 'train'", "line 4: a box without a label"):
        assert part in text


def test_coco(tmp_path: Path) -> None:
    """Categories in the order of their ids, boxes from x, y, width, height; images without boxes are kept."""
    path = tmp_path / "boxes.json"
    content = {
        "images": [{"id": 7, "file_name": "a.png", "width": 50, "height": 40}, {"id": 8, "file_name": "b.png"}],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [5, 6, 10, 20]}],
        "categories": [{"id": 5, "name": "late"}, {"id": 2, "name": "early"}],
    }
    path.write_text(json.dumps(content))
    found = read_box_file(path)
    assert found.classes == ("early", "late")
    assert found.images["a.png"].boxes == [("early", (5, 6, 15, 26))]
    assert found.images["a.png"].size == (50, 40)
    assert found.images["b.png"].boxes == []
    content["annotations"] = [{"id": 1, "image_id": 7, "category_id": 2, "bbox": [5, 6, 10, 20], "iscrowd": 1}]
    path.write_text(json.dumps(content))
    assert "iscrowd" in read_box_file(path).problems[0]


def test_voc_counts_from_one(tmp_path: Path) -> None:
    (tmp_path / "a.xml").write_text(VOC.format(name="a", x=11))
    found = read_box_file(tmp_path)
    assert found.images["a.jpg"].boxes == [("mass", (10, 10, 30, 40))]
    assert found.images["a.jpg"].size == (100, 80)


def test_voc_that_counts_from_zero(tmp_path: Path) -> None:
    """One 0 shows that the tool did not count from 1: then no file is shifted."""
    (tmp_path / "a.xml").write_text(VOC.format(name="a", x=11))
    (tmp_path / "b.xml").write_text(VOC.format(name="b", x=0))
    found = read_box_file(tmp_path)
    assert found.images["a.jpg"].boxes == [("mass", (11, 11, 30, 40))]
    assert "count from 0" in found.notes[0]


@pytest.mark.parametrize(
    "head",
    [
        '<!DOCTYPE a [<!ENTITY x "{bomb}">]>',
        '<!DOCTYPE a SYSTEM "file:///etc/hostname">',
    ],
)
def test_xml_with_entities_is_not_read(tmp_path: Path, head: str) -> None:
    (tmp_path / "a.xml").write_text(head + VOC.format(name="a", x=11))
    (tmp_path / "b.xml").write_text("<annotation>")
    problems = read_box_file(tmp_path).problems
    assert "document type or an entity" in problems[0]
    assert "not XML" in problems[1]


def test_other_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="COCO"):
        read_box_file(tmp_path / "boxes.txt")
