"""A planted name reaches nothing that prepare writes or prints, wherever the archive holds it."""

from __future__ import annotations

import base64
import csv
import gzip
import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
from archives import CLASSES, add_seg, add_series, box, cohort, picture
from pydicom import Dataset as Header
from pydicom.uid import generate_uid

from medkd.cli.app import run
from medkd.data.dataset import read_dataset
from medkd.errors import InputError
from medkd.runs.identifiers import scrub
from medkd.runs.prepare import prepare

PLANTED = ("Zebulon", "Quxley", "MRN778123")
"""Names and a number that no other text holds, not even by chance."""


def plant(dataset: Header, z: int) -> None:
    dataset.PatientName, dataset.PatientID = "Zebulon^Quxley", "MRN778123"
    dataset.SeriesDescription = "abdomen of Quxley, Zebulon"
    dataset.StudyDescription = dataset.ProtocolName = dataset.ImageComments = "Zebulon Quxley"
    dataset.ReferringPhysicianName, dataset.InstitutionName = "Dr^Quxley", "Zebulon Clinic"
    dataset.AccessionNumber = dataset.StudyID = "MRN778123"
    dataset.ImageType = ["ORIGINAL", "PRIMARY", "ZEBULON"]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Two planted patients: one is taken, and three series of the other are refused in three ways."""
    root = cohort(tmp_path / "pacs")
    for number, name in enumerate(("taken", "gap", "short", "burned")):
        folder = root / "Zebulon_Quxley" / f"MRN778123 {name}"

        def edit(dataset: Header, z: int, name: str = name) -> None:
            plant(dataset, z)
            dataset.StudyInstanceUID = generate_uid(entropy_srcs=[name])
            dataset.BurnedInAnnotation = "YES" if name == "burned" else "NO"

        files = add_series(folder, name, f"{name} of Quxley", picture(number), edit)
        files = [file.rename(file.with_name(f"Quxley-{file.name}.dcm")) for file in files]
        if name == "taken":
            add_seg(folder / "seg of Zebulon", folder, box())
        if name == "gap":
            files[2].unlink()
        if name == "short":
            files[2].write_bytes(files[2].read_bytes()[:-99])
    (root / "Zebulon_Quxley/broken MRN778123.dcm").write_bytes(files[0].read_bytes()[:600])
    (root / "Zebulon.txt").write_text("Quxley")
    return root


def bytes_of(folder: Path) -> dict[str, bytes]:
    """Name -> content of every file, unpacked."""
    found = {}
    for path in folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            found[str(path.relative_to(folder))] = gzip.decompress(content) if path.suffix == ".gz" else content
    return found


def unpacked(page: bytes) -> bytes:
    """A page with its pictures as they are: in base64 they hide what they hold, and spell short names by chance."""
    return re.sub(rb"data:image/png;base64,([\w+/=]+)", lambda found: base64.b64decode(found[1]), page)


def leaks(texts: dict[str, bytes], words: tuple[str, ...] = PLANTED) -> list[str]:
    texts = {name: unpacked(content) for name, content in texts.items()}
    return [
        f"{word} in {name}"
        for name, content in texts.items()
        for word in words
        if word.lower() in name.lower() or word.lower().encode() in content.lower()
    ]


def test_no_byte_of_a_dataset_and_no_line_of_the_log_names_the_patient(
    archive: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    arguments = ["prepare", str(archive), "--out", str(tmp_path / "data"), "--classes", ",".join(CLASSES)]
    assert run([*arguments, "--labelled", "1", "--split", "0.6/0.2/0.2"]) == 0
    assert len(read_dataset(tmp_path / "data").cases) == 5
    assert run(["info", str(tmp_path / "data")]) == 0
    printed = capfd.readouterr()
    texts = bytes_of(tmp_path / "data")
    assert len(texts) == 14
    assert b"reason" in texts["report.json"]
    uids = tuple(str(uid) for uid in {*_uids(archive)})
    assert len(uids) > 20
    texts |= {"stdout": printed.out.encode(), "stderr": printed.err.encode(), "log": caplog.text.encode()}
    assert leaks(texts, PLANTED + uids + (str(archive),)) == []
    assert printed.out.count("left out ") == 4  # three series and a broken file
    with (tmp_path / "data.private.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {"MRN778123", "ID-patient0"} <= {row["source"] for row in rows if row["kind"] == "patient"}
    assert sum("Zebulon_Quxley" in row["path"] for row in rows) == 5


def _uids(folder: Path) -> list[str]:
    import pydicom

    found = []
    for path in folder.rglob("*"):
        if path.is_file() and path.stat().st_size > 1000:
            header = pydicom.dcmread(path, stop_before_pixels=True)
            found += [header.StudyInstanceUID, header.SeriesInstanceUID, header.SOPInstanceUID]
    return found


def test_the_planted_name_is_where_it_was_planted(archive: Path) -> None:
    """The search itself finds it: an empty list would mean nothing otherwise."""
    texts = bytes_of(archive)
    assert {word for word in PLANTED if leaks(texts, (word,))} == set(PLANTED)
    assert leaks({"a": b"x ZEBULON y"}) == ["Zebulon in a"]
    inside = base64.b64encode(b"\x89PNG Zebulon")
    assert leaks({"a": b'<img src="data:image/png;base64,%s">' % inside}) == ["Zebulon in a"]
    assert leaks({"a": b'<img src="data:image/png;base64,quxleyQUXLEY">'}) == []


def save(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, np.diag([1.5, 1.5, 3, 1]))
    image.header["descrip"] = b"Zebulon Quxley"
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def nifti_source(tmp_path: Path) -> Path:
    for number in range(5):
        name = f"Quxley{number}_MRN778123.nii.gz"
        save(tmp_path / "source/images" / name, picture(number))
        save(tmp_path / "source/labels" / name, box().astype(np.uint8))
    save(tmp_path / "source/labels/Zebulon_extra.nii.gz", box().astype(np.uint8))
    return tmp_path / "source"


OPTIONS: dict[str, Any] = {"classes": CLASSES, "labelled": 1, "split": (0.6, 0.2, 0.2)}


def test_file_names_of_a_plain_folder_are_private_too(tmp_path: Path) -> None:
    source = nifti_source(tmp_path)
    prepare(source, tmp_path / "data", **OPTIONS)
    assert leaks(bytes_of(tmp_path / "data"), (*PLANTED, str(source))) == []
    kept = prepare(source, tmp_path / "kept", keep_identifiers=True, **OPTIONS)
    assert {case.id for case in kept.cases} == {f"Quxley{n}_MRN778123" for n in range(5)}
    assert not (tmp_path / "kept.private.csv").exists()


def test_names_that_a_table_states_are_kept(tmp_path: Path) -> None:
    source = nifti_source(tmp_path)
    rows = ["case,patient,image,label"]
    rows += [
        f"case{n},p{n},{','.join(f'{d}/Quxley{n}_MRN778123.nii.gz' for d in ('images', 'labels'))}" for n in range(5)
    ]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    done = prepare(source, tmp_path / "data", table=tmp_path / "table.csv", **OPTIONS)
    assert {case.id for case in done.cases} == {f"case{n}" for n in range(5)}
    with pytest.raises(InputError, match="--key has no effect with a table"):
        prepare(source, tmp_path / "x", table=tmp_path / "table.csv", key=tmp_path / "key.csv", **OPTIONS)


def test_the_key_may_not_travel_with_the_dataset(tmp_path: Path) -> None:
    source = nifti_source(tmp_path)
    with pytest.raises(InputError, match="would lie in the dataset"):
        prepare(source, tmp_path / "data", key=tmp_path / "data/key.csv", **OPTIONS)
    (tmp_path / "key.csv").write_text("kind,id,source,path,reason\npatient,a,b,,\n")
    with pytest.raises(InputError, match="not a private key"):
        prepare(source, tmp_path / "data", key=tmp_path / "key.csv", **OPTIONS)
    assert not (tmp_path / "data").exists()


def test_names_are_no_plain_hashes(tmp_path: Path) -> None:
    """Without the salt nobody can confirm a guess: two runs share no name."""
    source = nifti_source(tmp_path)
    one = prepare(source, tmp_path / "one", **OPTIONS)
    two = prepare(source, tmp_path / "two", **OPTIONS)
    assert not {c.patient for c in one.cases} & {c.patient for c in two.cases}


def test_words_are_taken_out_whole() -> None:
    words = ("Smith", "12345", "12", "A", "IM-0001.dcm")
    text = "Smithers saw SMITH, slices 12 to 14, 12345 and IM-0001.dcm: A_Smith"
    expected = "Smithers saw [removed], slices 12 to 14, [removed] and [removed]: A_[removed]"
    assert scrub(text, words) == expected
    assert scrub("nothing", ()) == "nothing"


def test_info_names_no_patient_and_needs_no_torch(archive: Path) -> None:
    code = (
        "import sys; from medkd.cli.app import run; code = run(['info', sys.argv[1], '--json']); "
        "sys.exit(code or 3 * ('torch' in sys.modules))"
    )
    folder = archive / "export0"
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "ID-patient0" not in done.stdout
    assert "patient0^Test" not in done.stdout
    assert '"accepted": true' in done.stdout
